from __future__ import annotations

from pathlib import Path

import pytest

from medimind.cli.forecast.validate import command
from medimind.config.forecast import InputConfig, load_input_config
from medimind.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("patint: id", "unknown key 'patint'; known keys: kind, patient, time,"),
        (
            "values: {bili: {cod: bilirubin}}",
            "unknown key 'values.bili.cod'; known keys: code, unit",
        ),
        (
            "events: {death: {time: t, status: s, seen: [1]}}",
            "unknown key 'events.death.seen'; known keys: time, status, observed, censored",
        ),
    ],
)
def test_an_unknown_key_gets_those_of_its_place(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "input.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as raised:
        load_input_config(path)
    assert expected in str(raised.value)


def test_the_help_names_the_keys_of_a_mapping() -> None:
    option = next(one for one in command.params if one.name == "mapping")
    named = option.help.replace(";", ",").replace(".", ",").partition(": ")[2]  # type: ignore[attr-defined]
    words = {word.strip().removeprefix("of wide tables ") for word in named.split(",")} - {""}
    assert words == set(InputConfig.model_fields) - {"kind", "as_of", "min_visits"}
