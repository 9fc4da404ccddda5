from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import yaml

from medimind.cli.extras import EXTRAS
from medimind.cli.main import main


def test_recipe_list_names_the_ready_ones(capsys):
    assert main(["recipe", "list"]) == 0
    assert "kaggle-t4" in capsys.readouterr().out


def test_recipe_show_loads_again(tmp_path, capsys):
    assert main(["recipe", "show", "starter", "lora.rank=32"]) == 0
    text = capsys.readouterr().out
    assert "rank: 32" in text
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert main(["recipe", "validate", str(path)]) == 0


def test_doctor_says_what_is_here(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("medimind", "processor", "GPU", "small model", "extra wandb", "Hugging Face"):
        assert word in text


def test_doctor_knows_every_extra():
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"all", "dev", "browser"}  # those are for developers
    installed = metadata.packages_distributions()
    for extra, packages in EXTRAS.items():
        wanted = {
            _distribution(re.split(r"[<>=; \[]", one, maxsplit=1)[0]) for one in extras[extra]
        }
        for package in packages:
            found = {_distribution(name) for name in installed.get(package, wanted)}
            assert found & wanted, (extra, package)
        known = {package for packages in EXTRAS.values() for package in packages}
        brought = {
            package
            for package, names in installed.items()
            if wanted & {_distribution(name) for name in names} and package.isidentifier()
        }
        assert brought <= known | STUBS, extra


STUBS = {"typings"}


def _distribution(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_forecasts_without_their_extra_name_it(tmp_path):
    (tmp_path / "r.csv").write_text("patient,time,code,value,unit\n", "utf-8")
    commands = ["demo", "fit r.csv --out m", "backtest r.csv", "predict m r.csv", "report f"]
    code = (
        "import sys; sys.modules['scipy'] = None; from medimind.cli.main import main;"
        f"print([main(['forecast', *words.split()]) for words in {commands!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    line = "error: the package 'scipy' is not installed. Install it with: pip install "
    assert done.stderr == f"{line}'medimind[forecast]'.\n" * len(commands)
    assert done.stdout == f"{[1] * len(commands)}\n"


def test_the_harness_without_its_extra_names_it(tmp_path):
    code = (
        "import runpy, sys; sys.modules['lm_eval'] = None;"
        "runpy.run_module('medimind.evaluation.lm_eval', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the package 'lm_eval' ")


def test_data_stats_inspect_split(tmp_path, capsys):
    assert main(["data", "stats", "starter"]) == 0
    assert "120 rows = 120 kept + 0 rejected + 0 duplicates" in capsys.readouterr().out
    assert main(["data", "stats", "starter", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 120
    assert main(["data", "inspect", "starter", "-n", "1"]) == 0
    assert "A. " in capsys.readouterr().out
    assert main(["data", "split", "starter", "-o", str(tmp_path / "out")]) == 0
    assert "90 to train on, 30 held out" in capsys.readouterr().out
    lines = (tmp_path / "out" / "held_out.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 30
    assert main(["data", "stats", str(tmp_path / "out" / "held_out.jsonl")]) == 0
    assert "30 rows = 30 kept" in capsys.readouterr().out


def test_data_of_a_run_folder_are_the_cases_of_its_recipe(tmp_path, capsys) -> None:
    """Its adapter_config.json, metrics.jsonl and records are no cases."""
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps({"Question": "q?", "Complex_CoT": "so", "Response": "r"}) + "\n")
    recipe = {
        "name": "tried",
        "model": {"path": "smollm2-135m-instruct"},
        "train": {"steps": 1},
        "data": {"sources": [{"source": "file", "path": str(cases)}]},
    }
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(json.dumps(recipe))
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    assert main(["data", "stats", str(run), "--json"]) == 0
    out, told = capsys.readouterr()
    assert json.loads(out)["cases"] == 1
    assert f"{run} is a run folder" in told
    assert str(cases) in told
    assert main(["data", "validate", str(run), "data.sources.0.path=starter.jsonl"]) == 1
    assert "starter.jsonl: there is no such file" in capsys.readouterr().err


def test_data_validate_names_the_bad_row(tmp_path, capsys):
    path = tmp_path / "cases.jsonl"
    rows = [{"question": f"What is finding {i}?", "answer": "a sign"} for i in range(30)]
    rows[6]["answer"] = ""
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert main(["data", "validate", str(path)]) == 1
    out = capsys.readouterr().out
    assert "cases.jsonl:7" in out
    assert "1 rejected" in out
    assert main(["data", "validate", str(path), "lora.rank=3"]) == 2
    assert "other settings go with a recipe" in capsys.readouterr().err


def test_a_file_of_cases_takes_settings_of_its_section(tmp_path, capsys):
    path = tmp_path / "cases.jsonl"
    rows = [{"question": f"What is finding {i}?", "answer": "a sign"} for i in range(30)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ["data.held_out.rows=10", "data.deduplicate=none", "train.seed=1"]
    assert main(["data", "split", str(path), *arguments]) == 0
    assert "20 to train on, 10 held out" in capsys.readouterr().out
    assert main(["data", "split", str(path), "data.held_outt.rows=10"]) == 2
    assert "did you mean 'held_out'" in capsys.readouterr().err


def test_a_missing_file_of_cases_is_no_missing_recipe(capsys):
    assert main(["data", "inspect", "nowhere/cases.jsonl"]) == 2
    assert "nowhere/cases.jsonl: there is no such file" in capsys.readouterr().err


def test_a_file_of_cases_is_no_recipe_but_can_be_put_into_one(tmp_path, capsys):
    path = tmp_path / "the ward's" / "cases.jsonl"
    path.parent.mkdir()
    path.write_text('{"question": "Which sign?", "answer": "a murmur"}')
    assert main(["run", str(path)]) == 2
    told = capsys.readouterr().err
    assert "a file of cases, not a recipe" in told
    words = shlex.split(told.rstrip().removesuffix(".").rpartition("medimind run ")[2])
    assert main(["recipe", "show", *words]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["sources"][0]["path"] == str(path)


def test_validating_says_where_no_revision_is_pinned(capsys):
    assert main(["recipe", "validate", "medical-o1"]) == 0
    assert "data.sources.0 pins no revision" in capsys.readouterr().out
    assert main(["recipe", "validate", "medical-o1", "data.sources.0.revision=abc"]) == 0
    assert "revision" not in capsys.readouterr().out
