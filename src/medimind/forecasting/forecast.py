"""What a forecast says, as columns for many patients.

Legend: ``K`` rows, one per patient, code and horizon; ``L`` interval levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medimind.forecasting.records.table import Floats, Integers, Texts

LEVELS_PERCENT = (50, 80, 90)

SUFFICIENT, FEW_VISITS, NO_MEASUREMENT, TOO_FAR = range(4)
EVIDENCE = (
    "sufficient",
    "fewer measurements than asked for",
    "never measured: this is the population",
    "farther ahead than the errors were calibrated",
)
"""What each value of ``evidence`` means; all but the first are insufficient."""


@dataclass(frozen=True, slots=True, eq=False)
class Categories:
    """A column of texts that repeat: (K,) ``index`` into ``texts``."""

    texts: Sequence[str] | Texts
    index: Integers


Columns = dict[str, "Categories | Floats | Integers"]


@dataclass(frozen=True, slots=True, eq=False)
class Forecasts:
    """Values to come, with intervals.

    Attributes:
        patients: (P,) Names.
        codes: Codes that are forecast.
        units: UCUM unit of each.
        patient_index: (K,) Index into ``patients``.
        code_index: (K,) Index into ``codes``.
        horizon_days: (K,) Days after the patient's last visit.
        time_days: (K,) On the patient's clock.
        value: (K,) The median that is expected.
        low_KL: (K, L) Lower ends of the intervals of `LEVELS_PERCENT`.
        high_KL: (K, L) Upper ends.
        evidence: (K,) Index into `EVIDENCE`.
        num_visits: (K,) Measurements of the code that the patient has.
    """

    patients: Texts
    codes: tuple[str, ...]
    units: tuple[str, ...]
    patient_index: Integers
    code_index: Integers
    horizon_days: Floats
    time_days: Floats
    value: Floats
    low_KL: Floats
    high_KL: Floats
    evidence: Integers
    num_visits: Integers

    def columns(self) -> Columns:
        """A table for Parquet: a row per patient, code and horizon."""
        table: Columns = {
            "patient": Categories(self.patients, self.patient_index),
            "code": Categories(self.codes, self.code_index),
            "unit": Categories(self.units, self.code_index),
            "horizon_days": self.horizon_days,
            "time_days": self.time_days,
            "forecast": self.value,
        }
        for index, level in enumerate(LEVELS_PERCENT):
            table[f"low_{level}"] = self.low_KL[:, index]
            table[f"high_{level}"] = self.high_KL[:, index]
        table["evidence"] = Categories(EVIDENCE, self.evidence)
        table["num_visits"] = self.num_visits
        return table


BEFORE, SINCE, CONFIRMED = range(3)
LINE_STATES = (
    "not beyond the line",
    "beyond the line, not confirmed",
    "has crossed the line",
)
"""What each value of ``Risks.state`` means; for the last no risk of crossing is given."""


@dataclass(frozen=True, slots=True, eq=False)
class Risks:
    """Risks of lines and events, a row per patient, line or event, and horizon.

    Attributes:
        patients: (P,) Names.
        names: Lines, then events.
        patient_index: (K,) Index into ``patients``.
        name_index: (K,) Index into ``names``.
        horizon_days: (K,) Days after the patient's last visit.
        at: (K,) Risk of lying beyond the line at the horizon; NaN for events.
        by: (K,) Risk of having crossed the line, confirmed, by the horizon, or of the event; NaN
            where it has been crossed already, or nothing is known of the patient.
        state: (K,) Index into `LINE_STATES`; 0 for events.
    """

    patients: Texts
    names: tuple[str, ...]
    patient_index: Integers
    name_index: Integers
    horizon_days: Floats
    at: Floats
    by: Floats
    state: Integers

    def columns(self) -> Columns:
        """A table for Parquet."""
        return {
            "patient": Categories(self.patients, self.patient_index),
            "risk": Categories(self.names, self.name_index),
            "horizon_days": self.horizon_days,
            "at": self.at,
            "by": self.by,
            "state": Categories(LINE_STATES, self.state),
        }
