"""Rows and files that tests of cases share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def o1_row(number: int, **changes: Any) -> dict[str, Any]:
    words = " ".join(f"w{number}x{index}" for index in range(12))
    return {
        "Question": f"Question {number} about {words}?",
        "Complex_CoT": f"Thinking {number} on {words} step by step.",
        "Response": f"Response {number}: {words}.",
        **changes,
    }


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path
