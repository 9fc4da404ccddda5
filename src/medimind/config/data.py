"""Where cases come from, what each column means, and which of them are held out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from medimind.config.section import Section

SchemaName = Literal[
    "auto",
    "medical-o1",
    "messages",
    "sharegpt",
    "instruction",
    "question-answer",
    "multiple-choice",
    "radiology",
]


class SourceConfig(Section):
    """One source of cases.

    Attributes:
        source: ``starter`` (the set that ships with MediMind), ``file`` or ``huggingface``.
        path: File or folder for ``file`` (JSON, JSONL, CSV, Parquet); data set name for
            ``huggingface``.
        name: Configuration of the data set on the hub, such as ``en``.
        split: Split with an optional slice, such as ``train[:500]`` or ``test[10%:20%]``.
        revision: Commit of the data set on the hub; ``None`` takes the newest and warns.
        schema_name: How the columns are read (``schema`` in YAML); ``auto`` recognises them.
        columns: Our field -> column of the source, over what the schema says.
        weight: How often each row is drawn, relative to the other sources.
        limit: Take at most this many rows, from the start.
    """

    source: Literal["starter", "file", "huggingface"]
    path: str | None = None
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    schema_name: SchemaName = Field(default="auto", alias="schema")
    columns: dict[str, str] = Field(default_factory=dict)
    weight: float = Field(default=1.0, gt=0)
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _path_where_needed(self) -> SourceConfig:
        if self.source != "starter" and not self.path:
            raise ValueError(f"a source of kind '{self.source}' needs a path")
        return self


class HeldOutConfig(Section):
    """Which cases are kept from training for the before/after comparison.

    At most one of ``rows`` and ``fraction``; the starter set brings its own split, which
    ``None`` for both keeps.
    """

    rows: int | None = Field(default=None, ge=1)
    fraction: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_of(self) -> HeldOutConfig:
        if self.rows is not None and self.fraction is not None:
            raise ValueError("give rows or fraction, not both")
        return self


class ContaminationConfig(Section):
    """Training rows that repeat a benchmark or a held-out case (coverage of word n-grams).

    Attributes:
        ngram: Words per n-gram.
        threshold: Share of an item's n-grams found in one training row that counts as a repeat.
        benchmarks: Local benchmark files to check against, besides the held-out cases.
        action: What is done with such a training row.
    """

    ngram: int = Field(default=8, ge=3)
    threshold: float = Field(default=0.5, gt=0, le=1)
    benchmarks: tuple[Path, ...] = ()
    action: Literal["drop", "warn", "stop"] = "drop"


class DataConfig(Section):
    """All sources, and what is done with rows that are wrong or there twice."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    on_invalid: Literal["skip", "stop"] = "skip"
    deduplicate: Literal["none", "exact", "near"] = "near"
    near_threshold: float = Field(default=0.85, gt=0, le=1)
    group_by: str | None = None
    held_out: HeldOutConfig = HeldOutConfig()
    contamination: ContaminationConfig = ContaminationConfig()

    @property
    def unpinned(self) -> tuple[str, ...]:
        """Keys of the hub's data sets whose rows may differ at the next run."""
        return tuple(
            f"data.sources.{index}"
            for index, source in enumerate(self.sources)
            if source.source == "huggingface" and source.revision is None
        )
