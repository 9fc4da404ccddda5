"""What a forecast's document says, indexed by what a text can claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medimind.forecasting.records.codes import clinical_codes, find_code

RISING, FALLING, SAME = "rising", "falling", "about the same"

METHODS = (
    "ridge regression", "mixed effects", "ornstein-uhlenbeck", "boosting", "stack",
    "slope of the population", "mean of the patient's values",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """A document with its names.

    Attributes:
        document: As `document.patient_documents` makes it.
        codes: Code -> its part of the document.
        risks: Name of a line or an event -> its part.
        names: Lower-case spelling -> code, for every code of the document.
        strangers: Lower-case names of measurements that the document does not have.
    """

    document: Mapping[str, Any]
    codes: Mapping[str, Mapping[str, Any]]
    risks: Mapping[str, Mapping[str, Any]]
    names: Mapping[str, str]
    strangers: frozenset[str]

    def horizons(self) -> list[float]:
        """All horizons in days."""
        found = {
            row["horizon_days"]
            for part in (*self.codes.values(), *self.risks.values())
            for row in (*part.get("forecasts", ()), *part.get("horizons", ()))
        }
        return sorted(found)

    def forecast(self, code: str, days: float) -> Mapping[str, Any] | None:
        """The forecast of a code at a horizon."""
        rows = self.codes[code]["forecasts"] if code in self.codes else []
        return next((row for row in rows if row["horizon_days"] == days), None)

    def risk(self, name: str, days: float) -> Mapping[str, Any] | None:
        """The risk of a line or an event at a horizon."""
        rows = self.risks[name]["horizons"] if name in self.risks else []
        return next((row for row in rows if row["horizon_days"] == days), None)

    def neighbours(self, code: str, days: float) -> list[float]:
        """Quartiles of similar patients' values at a horizon; empty where there are none."""
        found = (self.codes.get(code) or {}).get("neighbours") or {"course": []}
        return next(
            (row["quartiles"] for row in found["course"] if row["horizon_days"] == days), []
        )

    def last(self, code: str) -> float | None:
        """The last measured value."""
        history = self.codes[code]["history"] if code in self.codes else []
        return history[-1]["value"] if history else None


def facts_of(document: Mapping[str, Any]) -> Facts:
    """The index of a document."""
    codes = {part["code"]: part for part in document["codes"]}
    names: dict[str, str] = {}
    for code, part in codes.items():
        known = find_code(code)
        for name in (code, part.get("name", code), *(known.aliases if known else ())):
            names.setdefault(name.lower(), code)
    strangers = set()
    for known in clinical_codes().values():
        for name in (known.code, known.short, *known.aliases):
            if name.lower() not in names:
                strangers.add(name.lower())
    risks = {part["name"]: part for part in document["risks"]}
    return Facts(document, codes, risks, names, frozenset(strangers))


def direction(before: float | None, after: float | None, part: Mapping[str, Any]) -> str | None:
    """Which way a value goes; about the same if by less than a third of the model's usual error."""
    if before is None or after is None:
        return None
    error = part["model"]["error"] or 0.0
    if abs(after - before) <= error / 3:
        return SAME
    return RISING if after > before else FALLING
