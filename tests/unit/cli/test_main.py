"""The command line answers fast, and never with a traceback for a user's mistake."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from medimind.cli.main import COMMANDS, EXIT_BUG, EXIT_USAGE, main


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    assert main([name, "--help"]) == 0
    assert "Usage: medimind" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("medimind, version 0.")


def test_help_needs_no_torch_and_under_half_a_second():
    code = (
        "import sys; from medimind.cli.main import main; main(['--help']); "
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules), 'heavy import'"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["recipes"], "Did you mean 'recipe'?"),
        (["run"], "Missing argument 'RECIPE'"),
        (["run", "no-such"], "there is no such recipe"),
        (["run", "starter", "lora.rnk=3"], "did you mean 'rank'?"),
        (["train", "starter", "train.steps=ten"], "valid integer"),
        (["recipe", "show", "starter", "rank"], "neither an option nor an override"),
        (["data", "stats", "no-such-file.jsonl"], "there is no such file"),
        (["ask", " "], "the question is empty"),
        (["ask", "x", "--run", "nowhere"], "no run folder"),
        (["ask", "x", "--temperature", "-1"], "Invalid value"),
        (["export", "nowhere"], "no run folder"),
        (["evaluate", "nowhere"], "no run folder"),
    ],
)
def test_mistakes_get_a_clear_line(arguments, expected, capsys):
    assert main(arguments) == EXIT_USAGE
    error = capsys.readouterr().err
    assert expected in " ".join(error.split())
    assert "Traceback" not in error


def test_a_bug_of_ours_says_so(monkeypatch, capsys):
    monkeypatch.setattr("medimind.config.catalogue.list_recipes", lambda: 1 / 0)
    assert main(["recipe", "show", "no-such"]) == EXIT_BUG
    error = capsys.readouterr().err
    assert "this is a bug of medimind's" in error
    assert "ZeroDivisionError" in error


def test_interrupt(monkeypatch, capsys):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("medimind.cli.recipe.find_recipe", interrupt)
    assert main(["recipe", "show", "starter"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_python_dash_m():
    result = subprocess.run(
        [sys.executable, "-m", "medimind", "--version"], capture_output=True, text=True, check=True
    )
    assert "version" in result.stdout
