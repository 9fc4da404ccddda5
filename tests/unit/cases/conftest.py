"""Small sources written anew for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medimind.cases.load import load_cases
from medimind.cases.loaded import LoadedCases
from medimind.config.data import DataConfig

Load = Callable[..., LoadedCases]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads files of the test's folder: ``load("a.jsonl", {"path": "b.csv"}, on_invalid=...)``."""

    def load_sources(*sources: str | dict[str, Any], **settings: Any) -> LoadedCases:
        listed = [
            {"source": "file", **({"path": source} if isinstance(source, str) else source)}
            for source in sources
        ]
        config = DataConfig.model_validate({"sources": listed, **settings})
        return load_cases(config, base_folder=tmp_path)

    return load_sources
