from __future__ import annotations

import pytest

from medimind.forecasting.records.codes import (
    clinical_codes,
    find_code,
    has_right_check_digit,
    is_loinc_shaped,
)


def test_every_loinc_code_of_the_table_has_its_check_digit() -> None:
    for code in clinical_codes():
        assert not is_loinc_shaped(code) or has_right_check_digit(code), code


@pytest.mark.parametrize("code", ["2160-1", "4548-5", "98979-9"])
def test_a_mistyped_code_fails_its_check_digit(code: str) -> None:
    assert not has_right_check_digit(code)


def test_limits_hold_the_usual_value_and_no_alias_is_there_twice() -> None:
    aliases = [alias for known in clinical_codes().values() for alias in known.aliases]
    assert len(aliases) == len(set(aliases))
    for known in clinical_codes().values():
        assert known.low <= known.usual <= known.high


def test_codes_are_found_by_name() -> None:
    known = find_code(" HbA1c ")
    assert known is not None
    assert known.code == "4548-4"
    assert find_code("no such thing") is None
