"""The command line answers fast, and never with a traceback for a user's mistake."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from medimind.cli.delivered import EXIT_NOT_GOOD
from medimind.cli.main import (
    COMMANDS,
    EXIT_BUG,
    EXIT_STOPPED,
    EXIT_USAGE,
    EXIT_USER_ERROR,
    cli,
    main,
)


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in text


def leaves(command: click.Command, *words: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with the words that name it."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, *words, name)


@pytest.mark.parametrize(("words", "command"), [*leaves(cli)])
def test_every_command_has_help_with_an_example(words, command, capsys):
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: medimind")
    assert f"\n  medimind {' '.join(words)}" in text
    for option in (one for one in command.params if isinstance(one, click.Option)):
        assert option.help, f"{option.name} says nothing"


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
        (["run", "no-such"], "no ready recipe of that name"),
        (["run", "mine.yaml"], "there is no such file"),
        (["run", "starter", "rank=4"], "did you mean 'lora.rank'?"),
        (["data", "stats", "no-such-file.tsv"], "there is no such file"),
        (["data", "inspect", "starter", "-n", "-3"], "-3 is not in the range"),
        (["evaluate", "nowhere"], "it does not exist"),
        (["evaluate", "nowhere", "--limit", "3"], "--limit: that goes with --benchmark"),
        (["evaluate", "x", "--benchmark", "b", "--timeout", "3"], "goes with --endpoint"),
        (["evaluate", "x", "--benchmark", "b", "--endpoint", "x:1"], "is an address"),
        (
            ["evaluate", "x", "--benchmark", "b", "--endpoint", "http://x", "--template", "r1"],
            "--template: that is for our own decoder",
        ),
        (["evaluate", "--rescore", "x.jsonl", "--seed", "3"], "--seed: --rescore reads outputs"),
        (["run", "starter", "lora.rnk=3"], "did you mean 'rank'?"),
        (["train", "starter", "train.steps=ten"], "valid integer"),
        (["recipe", "show", "starter", "rank"], "neither an option nor an override"),
        (["data", "stats", "no-such-file.jsonl"], "there is no such file"),
        (["ask", " "], "the question is empty"),
        (["ask", "x", "--run", "nowhere"], "no run folder"),
        (["ask", "x", "--temperature", "-1"], "Invalid value"),
        (["export", "nowhere"], "no run folder"),
        (["export", "x", "--quant", "q8_0"], "--quant: it changes nothing of --to adapter"),
        (["export", "x", "--to", "gguf", "--with-base"], "--with-base: it changes nothing"),
        (["export", "x", "--to", "gguf-adapter", "--quant", "q8_0"], "without --with-base"),
        (["export", "x", "--to", "gguf", "--create", "y"], "goes with --to ollama"),
        (["ask", "x", "--engine", "xllamacpp"], "--engine: that runs GGUF files"),
        (["serve", "x", "--tuned-name", "y"], "--tuned-name: that goes with --endpoint"),
        (["serve", "x", "--endpoint", "http://y", "--threads", "2"], "the endpoint has the model"),
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


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0"}
"""The C locale with its UTF-8 mode off; Windows' pipes have such an encoding by themselves."""


def test_what_the_locale_cannot_say_ends_no_command(tmp_path):
    folder = tmp_path / "Fälle auf Station"
    folder.mkdir()
    (folder / "fälle.jsonl").write_text('{"question": "Größe?", "answer": "≥ 5 日"}\n', "utf-8")
    for words, expected in (
        (["data", "inspect", "fälle.jsonl"], "≥ 5 日"),
        (["recipe", "list"], "…"),  # a column that is too narrow
    ):
        done = subprocess.run(
            [sys.executable, "-m", "medimind", *words],
            cwd=folder,
            env={**os.environ, **ASCII},
            capture_output=True,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert expected in done.stdout.decode("utf-8")


def test_a_word_that_the_locale_cannot_read_is_named(monkeypatch, capsys):
    monkeypatch.setattr("medimind.config.catalogue.list_recipes", lambda: 1 / 0)
    assert main(["recipe", "show", "gr\udcc3\udcb6\udcc3\udc9fe"]) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert r"error: 'gr\udcc3\udcb6\udcc3\udc9fe' is no text in" in error
    assert "PYTHONUTF8=1" in error


def test_interrupt(monkeypatch, capsys):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("medimind.cli.arguments.find_recipe", interrupt)
    assert main(["recipe", "show", "starter"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_takes_nothing_is_no_bug_of_ours(number, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(number, os.strerror(number), "runs/x/data.json")

    monkeypatch.setattr("medimind.cli.arguments.find_recipe", full)
    assert main(["recipe", "show", "starter"]) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert error.startswith(f"error: runs/x/data.json: {os.strerror(number)}")
    assert "Traceback" not in error


def test_help_tells_the_exit_codes(capsys):
    assert main(["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for code in (EXIT_USER_ERROR, EXIT_USAGE, EXIT_NOT_GOOD, EXIT_BUG, EXIT_STOPPED):
        assert f" {code} " in text.partition("Exit codes:")[2]


def test_python_dash_m():
    result = subprocess.run(
        [sys.executable, "-m", "medimind", "--version"], capture_output=True, text=True, check=True
    )
    assert "version" in result.stdout
