"""How forecasts are made: experts, boosted trees, intervals, lines that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from medimind.config.lines import read_yaml
from medimind.config.section import Section
from medimind.errors import ConfigError

Expert = Literal[
    "last_value",
    "patient_mean",
    "population_slope",
    "local_trend",
    "mixed_effects",
    "mixed_effects_process",
    "logistic_mixed_effects",
    "linear",
]

IntervalsFor = Literal["visits", "last_visits"]


class LineConfig(Section):
    """A value whose crossing matters.

    Attributes:
        name: What reports call it, such as ``eGFR < 60``.
        code: The code it belongs to, or a name MediMind knows it by such as ``egfr``.
        value: The line, in ``unit``.
        unit: UCUM unit; it must be the one of the records.
        side: Which side is the risk.
        confirm_days: A crossing counts when a later value, at least so many days after the first,
            is beyond the line too, and none between them is not. 0 counts a single value.
    """

    name: str = Field(min_length=1)
    code: str = Field(min_length=1)
    value: float
    unit: str = "1"
    side: Literal["below", "at_or_above"] = "below"
    confirm_days: float = Field(default=0.0, ge=0)


_GFR_CODES = ("98979-8", "62238-1", "33914-3", "69405-9", "48642-3", "48643-1", "77147-7")
_GFR_UNIT = "mL/min/{1.73_m2}"

NAMED_LINES = (
    *(LineConfig(name="eGFR < 60", code=code, value=60, unit=_GFR_UNIT, confirm_days=90)
      for code in _GFR_CODES),
    *(LineConfig(name="eGFR < 15", code=code, value=15, unit=_GFR_UNIT, confirm_days=90)
      for code in _GFR_CODES),
    *(LineConfig(name="HbA1c >= 6.5 %", code=code, value=6.5, unit="%", side="at_or_above")
      for code in ("4548-4", "17856-6")),
    LineConfig(name="HbA1c >= 48 mmol/mol", code="59261-8", value=48, unit="mmol/mol",
               side="at_or_above"),
)  # fmt: skip
"""Chronic kidney disease stage 3 and 5 (KDIGO: confirmed after 90 days), diabetes (ADA)."""


class TreesConfig(Section):
    """Boosted trees over visit windows (scikit-learn's HistGradientBoostingRegressor).

    Attributes:
        num_trees: Boosting rounds.
        num_leaves: Most leaves a tree.
        learning_rate: Share of each tree that is taken.
        rows_a_leaf: Fewest rows of a leaf.
    """

    num_trees: int = Field(default=100, ge=1, le=2000)
    num_leaves: int = Field(default=12, ge=2, le=64)
    learning_rate: float = Field(default=0.06, gt=0, le=1)
    rows_a_leaf: int = Field(default=25, ge=1)


class LeaspyConfig(Section):
    """leaspy's course of a disease as one more expert, fitted by a Python of its own.

    Attributes:
        python: A Python that has leaspy, or a folder it was installed into with
            ``pip install --no-deps --target``. leaspy is under the BSD 3-Clause Clear licence.
        codes: Codes that it models together, their values taken between the lowest and the highest
            seen; none takes those whose values lie between 0 and 1, which is what it is made for.
        iterations: Of its stochastic EM; leaspy's own default is 10,000, which takes hours.
        cache: Folder that keeps fits, so that a stopped run goes on.
    """

    python: Path
    codes: tuple[str, ...] = ()
    iterations: int = Field(default=1000, ge=10)
    cache: Path | None = None


class ForecastConfig(Section):
    """How a forecaster is fitted.

    Attributes:
        experts: Which experts are stacked; `last_value` and `patient_mean` are always among them.
        leaspy: leaspy as one more expert; ``None`` does without.
        trees: The boosted trees that correct the stack; ``None`` leaves them out.
        steps: How many measurements ahead training looks.
        pairs_per_patient: Most pairs of an origin and a later measurement that a patient gives.
        num_folds: Folds of patients for errors on others.
        intervals_for: What intervals hold their level over: ``visits``, all measurements to come,
            or ``last_visits``, patients' last ones, which come before dropping out or dying.
        horizons_days: Horizons of forecasts; empty takes those that the records allow.
        lines: Lines whose crossing is forecast; those of codes that are not there are left out.
        neighbours: Keep courses of past patients, without names, to show beside a forecast.
        num_paths: Simulated courses a patient for risks by a horizon.
        min_visits: With fewer measurements a forecast is marked as thinly founded.
        max_fit_patients: Training takes at most so many patients, drawn at random.
        seed: Seed of folds and draws.
    """

    experts: tuple[Expert, ...] = (
        "last_value",
        "patient_mean",
        "population_slope",
        "local_trend",
        "mixed_effects",
        "mixed_effects_process",
        "logistic_mixed_effects",
        "linear",
    )
    leaspy: LeaspyConfig | None = None
    trees: TreesConfig | None = TreesConfig()
    steps: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8)
    pairs_per_patient: int = Field(default=60, ge=1)
    num_folds: int = Field(default=5, ge=2, le=20)
    intervals_for: IntervalsFor = "visits"
    horizons_days: tuple[float, ...] = ()
    lines: tuple[LineConfig, ...] = NAMED_LINES
    neighbours: bool = True
    num_paths: int = Field(default=256, ge=16, le=4096)
    min_visits: int = Field(default=2, ge=1)
    max_fit_patients: int = Field(default=5000, ge=20)
    seed: int = 0

    @property
    def all_experts(self) -> tuple[str, ...]:
        """``experts``, and leaspy where it is asked for."""
        return (*self.experts, "leaspy") if self.leaspy is not None else self.experts

    def public(self) -> dict[str, Any]:
        """The settings without places on this machine."""
        return self.model_dump(mode="json", exclude={"leaspy": {"python", "cache"}})

    @field_validator("steps")
    @classmethod
    def _forward(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if not steps or min(steps) < 1:
            raise ValueError("steps count measurements ahead: 1 or more, at least one of them")
        return tuple(sorted(set(steps)))

    @field_validator("horizons_days")
    @classmethod
    def _positive(cls, horizons: tuple[float, ...]) -> tuple[float, ...]:
        if any(horizon <= 0 for horizon in horizons):
            raise ValueError("a horizon is a number of days above 0")
        return tuple(sorted(set(horizons)))

    @field_validator("experts")
    @classmethod
    def _with_baselines(cls, experts: tuple[Expert, ...]) -> tuple[Expert, ...]:
        baselines: tuple[Expert, ...] = ("last_value", "patient_mean")
        return (*baselines, *(one for one in experts if one not in baselines))


def load_forecast_config(path: Path) -> ForecastConfig:
    """The settings that a YAML file describes.

    Raises:
        ConfigError: Lists every error of the file at once, each with its line.
    """
    lined = read_yaml(path)
    problems = list(lined.problems)
    try:
        config = ForecastConfig.model_validate(lined.data)
    except ValidationError as error:
        for details in error.errors():
            keys = tuple(details["loc"])
            name = ".".join(map(str, keys)) or "the settings"
            message = details["msg"].removeprefix("Value error, ")
            problems.append((lined.line_of(keys), f"'{name}': {message[:1].lower()}{message[1:]}"))
    else:
        if not problems:
            return config
    listing = "".join(f"\n  {path}:{line}: {message}" for line, message in sorted(problems))
    raise ConfigError(f"the forecast settings are wrong:{listing}")
