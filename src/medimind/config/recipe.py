"""A whole run as one validated value."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import field_validator

from medimind.config.data import DataConfig
from medimind.config.evaluation import EvaluationConfig
from medimind.config.export import ExportConfig
from medimind.config.model import LoraConfig, ModelConfig
from medimind.config.prompt import PromptConfig
from medimind.config.section import Section
from medimind.config.tracking import TrackingConfig
from medimind.config.train import TrainConfig


class Recipe(Section):
    """One run, from cases to report.

    Attributes:
        name: Short name; the run folder's name where ``output`` is not given.
        description: One line for ``medimind recipe list``.
        output: Run folder; ``None`` means ``runs/<name>``.
    """

    name: str
    description: str = ""
    output: Path | None = None
    model: ModelConfig
    data: DataConfig
    prompt: PromptConfig = PromptConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise ValueError("cannot name a run folder; use letters, digits, '.', '_' and '-'")
        return name

    @property
    def run_folder(self) -> Path:
        """The folder everything of this run is written to."""
        return self.output or Path("runs") / self.name
