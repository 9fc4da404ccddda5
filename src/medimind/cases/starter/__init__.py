"""The starter set: clinical cases written for MediMind; README.md is its data card."""

from __future__ import annotations

from pathlib import Path

from medimind.cases.case import Case
from medimind.cases.load import load_cases
from medimind.config.data import DataConfig, SourceConfig


def load_starter() -> tuple[Case, ...]:
    """All cases of the starter set, each with its own ``split``, ``train`` or ``held_out``.

    Raises:
        DataError: The installed file is damaged.
    """
    config = DataConfig(
        sources=(SourceConfig(source="starter"),), on_invalid="stop", deduplicate="none"
    )
    return load_cases(config, base_folder=Path()).cases
