from __future__ import annotations

import pytest

from medimind.forecasting.records.codes import clinical_codes
from medimind.forecasting.records.unit_names import titled, ucum_names, with_unit, written_unit


@pytest.mark.parametrize(
    ("unit", "written"),
    [
        ("mL/min/{1.73_m2}", "mL/min/1.73 m²"),
        ("mm[Hg]", "mmHg"),
        ("10*3/uL", "10³/µL"),
        ("10*12/L", "10¹²/L"),
        ("umol/L", "µmol/L"),
        ("u[IU]/mL", "µIU/mL"),
        ("m[IU]/L", "mIU/L"),
        ("kg/m2", "kg/m²"),
        ("ug/mg", "µg/mg"),
        ("{beats}/min", "beats/min"),
        ("{score}", "points"),
        ("Cel", "°C"),
        ("um3", "µm³"),
        ("mL/min", "mL/min"),
        ("cmol/L", "cmol/L"),
        ("%", "%"),
        ("{INR}", ""),
        ("1", ""),
    ],
)
def test_units_are_written_as_clinicians_do(unit: str, written: str) -> None:
    assert written_unit(unit) == written


def test_no_unit_that_is_known_keeps_marks_of_ucum() -> None:
    units = {known.unit for known in clinical_codes().values()}
    units |= {unit for known in clinical_codes().values() for unit in known.conversions}
    assert not [unit for unit in units if set(written_unit(unit)) & set("{}[]*_")]


def test_written_forms_are_read_back() -> None:
    names = ucum_names(("{score}",))
    for known in clinical_codes().values():
        for unit in (known.unit, *known.conversions):
            if written_unit(unit):
                assert names[written_unit(unit).lower()] == unit
    assert names["μmol/l"] == names["µmol/l"] == "umol/L"  # Greek mu, micro sign
    assert "" not in names


def test_titles_and_numbers_leave_out_what_is_no_unit() -> None:
    assert titled("INR", "{INR}") == "INR"
    assert titled("eGFR", "mL/min/{1.73_m2}") == "eGFR (mL/min/1.73 m²)"
    assert with_unit("1.1", "1") == "1.1"
    assert with_unit("6.5", "%") == "6.5 %"
