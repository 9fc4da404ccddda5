"""The commands one after the other, as a user would, on a tiny model of random weights."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from medimind.cli.main import EXIT_STOPPED, main
from medimind.engines.run_model import find_gguf
from medimind.errors import MissingExtraError
from tiny_checkpoints import write_folder

DRUGS = ("heparin", "warfarin", "opioids", "iron", "digoxin", "lead", "insulin", "methanol")
ANTIDOTES = (
    "protamine",
    "vitamin K",
    "naloxone",
    "deferoxamine",
    "Fab",
    "EDTA",
    "sugar",
    "ethanol",
)


def rows() -> list[dict[str, object]]:
    return [
        {
            "question": f"Which agent reverses {drug} in patient {number}?",
            "reasoning": f"They took {drug}; its antidote is {antidote}.",
            "response": f"Give {antidote}.",
            "options": [antidote, "aspirin"] if number % 2 else ["aspirin", antidote],
            "answer": antidote,
            "answer_index": 0 if number % 2 else 1,
        }
        for number in (1, 2)
        for drug, antidote in zip(DRUGS, ANTIDOTES, strict=True)
    ]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole-way")
    write_folder(folder / "model", "llama", max_position_embeddings=1024)
    cases = "\n".join(json.dumps(row) for row in rows())
    (folder / "cases.jsonl").write_text(cases)
    recipe = {
        "name": "tiny",
        "output": str(folder / "run"),
        "model": {"path": str(folder / "model"), "device": "cpu"},
        "data": {
            "sources": [{"source": "file", "path": str(folder / "cases.jsonl")}],
            "deduplicate": "exact",
            "held_out": {"rows": 6},
            "contamination": {"action": "warn"},
        },
        "prompt": {"template": "chatml", "system": ""},
        "lora": {"rank": 4},
        "train": {
            "steps": 4,
            "batch_size": 3,
            "learning_rate": 0.01,
            "max_length": 700,
            "evaluate_every": 2,
            "checkpoint_every": 2,
        },
        "evaluation": {"decoding": {"max_new_tokens": 12}, "bootstrap_samples": 200},
        "export": {"to": "gguf-adapter", "quantizations": ["f16"]},
        "tracking": {"wandb": {"mode": "offline"}, "tensorboard": True},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def finished(workplace) -> Path:
    assert main(["run", str(workplace / "recipe.yaml")]) == 0
    return workplace / "run"


def test_a_run_leaves_everything_in_its_folder(finished):
    for name in (
        "recipe.yaml",
        "provenance.json",
        "data.json",
        "metrics.jsonl",
        "adapter/adapter_model.safetensors",
        "evaluation/base.jsonl",
        "evaluation/tuned.jsonl",
        "report.html",
        "report.json",
        "report.md",
        "wandb",
        "tensorboard",
    ):
        assert (finished / name).exists(), name


def test_a_run_ends_with_the_files_that_a_phone_takes(finished, workplace, capsys):
    pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")
    folder = finished / "export-gguf-adapter"
    told = json.loads((folder / "verification.json").read_text("utf-8"))
    assert [one["file"] for one in told] == ["tiny-adapter.gguf", "tiny-base-f16.gguf"]
    assert all(one["fidelity"]["kl_mean"] < 0.01 and one["problems"] == [] for one in told)
    assert find_gguf(str(finished)) == (
        folder / "tiny-base-f16.gguf",
        folder / "tiny-adapter.gguf",
    )
    assert main(["ask", "What reverses iron?", "--model", str(finished), "--max-new-tokens=4"]) == 0
    said = capsys.readouterr().out
    assert "before" in said
    assert "after" in said
    written = (folder / "tiny-base-f16.gguf").stat().st_mtime_ns
    assert main(["run", str(workplace / "recipe.yaml")]) == 0
    assert (folder / "tiny-base-f16.gguf").stat().st_mtime_ns == written


def test_files_of_a_machine_without_llama_cpp_say_how_to_be_verified(
    finished, workplace, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")
    output = Path(shutil.copytree(finished, tmp_path / "a ward's run"))
    shutil.rmtree(output / "export-gguf-adapter")

    def missing():
        raise MissingExtraError("xllamacpp", extra="local")

    with monkeypatch.context() as patched:
        patched.setattr("medimind.export.deliver.find_program", missing)
        assert main(["run", str(workplace / "recipe.yaml"), f"output={output}"]) == 0
    told = capsys.readouterr()
    assert "not verified" in told.out
    line = next(one for one in told.err.splitlines() if "then medimind export" in one)
    words = shlex.split(line.rpartition("then medimind ")[2])
    assert main(words) == 0
    assert capsys.readouterr().out.count("good: KL") == 2


def test_the_report_accounts_for_every_row_and_case(finished):
    data = json.loads((finished / "data.json").read_text("utf-8"))
    loading = data["loading"]
    assert loading["rows_in"] == len(rows())
    assert loading["rows_in"] == loading["kept"] + loading["rejected"] + loading["duplicates"]
    assert (data["train"]["cases"], data["held_out"]["cases"]) == (10, 6)
    asked = {}
    for arm in ("base", "tuned"):
        lines = (finished / "evaluation" / f"{arm}.jsonl").read_text("utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        assert all(one["output"] for one in records)
        asked[arm] = {one["case_id"] for one in records}
    assert asked["base"] == asked["tuned"]
    assert len(asked["base"]) == 6
    report = json.loads((finished / "report.json").read_text("utf-8"))
    assert {one["num_cases"] for one in report["comparisons"]} == {6}
    text = (finished / "report.md").read_text("utf-8")
    assert report["report"]["headline"] in text
    for row in ("Rows in | 16", "Kept | 16", "Rejected | 0", "Duplicates | 0", "Held out | 6"):
        assert f"| {row} |" in text


def test_nothing_is_fetched_and_no_program_started(workplace, monkeypatch):
    """Pains 1 and 15: neither a compiler nor the network is needed, from rows to a GGUF file."""
    started = []
    start = subprocess.Popen.__init__

    def watched(self, args, *rest, **options):
        started.append(args[0])
        return start(self, args, *rest, **options)

    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def connecting(self, address):
        assert address[0] == "127.0.0.1"  # llama.cpp within this process answers there
        return connect(self, address)

    def resolving(host, *rest, **options):
        assert host == "127.0.0.1"
        return resolve(host, *rest, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", watched)
    monkeypatch.setattr(socket, "getaddrinfo", resolving)
    monkeypatch.setattr(socket.socket, "connect", connecting)
    output = workplace / "offline"
    settings = [f"output={output}", "tracking={}", "train.steps=1", "export.to=gguf"]
    assert main(["run", str(workplace / "recipe.yaml"), *settings]) == 0
    assert (output / "export-gguf" / "tiny-f16.gguf").is_file()
    assert set(started) <= {"git"}  # for the commit in provenance.json


def test_a_finished_run_does_nothing_and_says_so(finished, workplace, capsys):
    before = {path: path.stat().st_mtime_ns for path in (finished / "adapter").iterdir()}
    assert main(["run", str(workplace / "recipe.yaml")]) == 0
    assert "finished before" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "adapter").iterdir()}


def test_other_settings_are_refused_by_key(finished, workplace, capsys):
    assert main(["run", str(workplace / "recipe.yaml"), "lora.rank=8"]) == 2
    assert "lora.rank was 4, now 8" in capsys.readouterr().err
    assert main(["evaluate", str(finished), "lora.rank=8"]) == 2
    refused = capsys.readouterr().err
    assert "such as evaluation.*" in refused
    assert "--restart" not in refused  # which is no option of evaluate


def test_evaluate_again_asks_nothing_twice(finished, capsys):
    before = (finished / "evaluation" / "tuned.jsonl").read_bytes()
    assert main(["evaluate", str(finished)]) == 0
    assert (finished / "evaluation" / "tuned.jsonl").read_bytes() == before
    assert "difference" in capsys.readouterr().out


def test_compare_two_arms(finished, capsys):
    folder = finished / "evaluation"
    assert main(["compare", str(folder / "base.jsonl"), str(folder / "tuned.jsonl")]) == 0
    assert "difference" in capsys.readouterr().out


def test_ask_shows_before_and_after(finished, capsys):
    arguments = ["ask", "What reverses iron?", "--run", str(finished), "--max-new-tokens", "5"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "before (base model)" in out
    assert "after (tuned)" in out
    assert "not a diagnosis" in out
    assert "cut off; --max-new-tokens allows more than 5" in out
    assert main([*arguments, "--show", "tuned"]) == 0
    assert "before" not in capsys.readouterr().out
    model = str(finished.parent / "model")
    assert main(["ask", "What reverses iron?", "--model", model, "--show", "tuned"]) == 2
    assert "there is no adapter" in capsys.readouterr().err


def test_export_adapter_and_merged(finished, capsys):
    assert main(["export", str(finished)]) == 0
    assert main(["export", str(finished)]) == 1
    assert "--force" in capsys.readouterr().err
    assert main(["export", str(finished), "--to", "merged"]) == 0
    assert (finished / "export-merged" / "config.json").is_file()


def test_a_stopped_run_wants_resume_and_ends_the_same(workplace, finished, capsys):
    recipe, output = str(workplace / "recipe.yaml"), workplace / "stopped"
    stop = ["train", recipe, f"output={output}", "tracking={}"]
    assert main([*stop, "train.max_hours=1e-9"]) == EXIT_STOPPED
    told = capsys.readouterr().out.rstrip().rpartition("Go on with: ")[2]
    assert shlex.split(told) == ["medimind", *stop, "train.max_hours=1e-9", "--resume"]
    assert main(stop) == 1
    refused = capsys.readouterr().err
    assert "--resume" in refused
    assert "Model" not in refused  # before anything is loaded
    assert main(["ask", "What reverses iron?", "--run", str(output)]) == 1
    assert f"medimind run {output}/recipe.yaml --resume" in capsys.readouterr().err
    assert main([*stop, "--resume"]) == 0
    weights = "adapter/adapter_model.safetensors"
    assert (output / weights).read_bytes() == (finished / weights).read_bytes()


def test_what_tracking_lacks_is_told_before_anything_is_loaded(workplace, monkeypatch, capsys):
    arguments = ["run", str(workplace / "recipe.yaml"), f"output={workplace / 'untracked'}"]
    monkeypatch.setattr("medimind.tracking.wandb._has_credentials", lambda wandb: False)
    assert main([*arguments, "tracking.wandb.mode=online"]) == 2
    told = capsys.readouterr().err
    assert "WANDB_API_KEY" in told
    assert "Cases" not in told
    monkeypatch.setattr("medimind.tracking.build.find_spec", lambda name: None)
    assert main(arguments) == 1
    assert "pip install 'medimind[tensorboard]'" in capsys.readouterr().err


def test_restart_keeps_the_earlier_run(workplace, capsys):
    recipe, output = str(workplace / "recipe.yaml"), workplace / "again"
    arguments = ["train", recipe, f"output={output}", "tracking={}", "train.steps=1"]
    assert main(arguments) == 0
    assert main([*arguments, "--restart"]) == 0
    assert len(list(workplace.glob("again.*"))) == 1


def test_a_changed_data_file_stops_the_evaluation(workplace, capsys):
    recipe, output = str(workplace / "recipe.yaml"), workplace / "changed"
    data = workplace / "other.jsonl"
    data.write_text((workplace / "cases.jsonl").read_text())
    source = f"data.sources.0.path={data}"
    assert main(["train", recipe, f"output={output}", "tracking={}", "train.steps=1", source]) == 0
    data.write_text("\n".join(data.read_text().splitlines()[1:]))
    assert main(["evaluate", str(output)]) == 1
    assert "cases changed" in capsys.readouterr().err
    provenance = output / "provenance.json"
    provenance.write_text(provenance.read_text()[:200])
    assert main(["evaluate", str(output)]) == 1
    assert "provenance.json" in capsys.readouterr().err


def test_the_result_becomes_a_gguf_file_that_is_verified(finished, tmp_path, capsys):
    pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")
    options = ["--to", "ollama", "--quant", "f16", "-o", str(tmp_path / "out")]
    code = main(["export", str(finished), *options])
    (row,) = json.loads((tmp_path / "out" / "verification.json").read_text())
    assert row["fidelity"]["num_same_ids"] == row["fidelity"]["num_texts"] > 0
    assert row["fidelity"]["kl_mean"] < 0.01
    assert (code, row["problems"]) == (0, [])
    assert "good: KL" in capsys.readouterr().out
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text.startswith(f"FROM ./{row['file']}\n")
    assert main(["export", str(finished), *options]) == 1  # nothing is overwritten unasked


def test_a_file_that_is_not_close_enough_is_not_called_good(finished, tmp_path, capsys):
    pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    strict = tmp_path / "run"
    shutil.copytree(finished, strict)
    recipe["export"] = {"max_kl": 1e-9, "verify_cases": 1, "verify_places": 2}
    (strict / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["export", str(strict), "--to", "gguf", "--quant", "q8_0"]) == 3
    assert "NOT GOOD" in capsys.readouterr().out


def test_a_repository_for_the_hub_is_written_and_nothing_sent(finished, tmp_path, capsys):
    pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")
    output = tmp_path / "repository"
    options = ["--quant", "f16", "-o", str(output), "--dry-run", "export.data_license=CC BY 4.0"]
    assert main(["push", str(finished), "someone/tiny-medical", *options]) == 0
    names = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert {
        "README.md",
        "config.json",
        "model.safetensors",
        "adapter/adapter_model.safetensors",
        "tiny-f16.gguf",
        "verification.json",
    } <= names
    card = (output / "README.md").read_text("utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "text-generation"
    report = json.loads((finished / "report.json").read_text("utf-8"))["report"]
    assert report["headline"] in card
    row = report["comparisons"][0]["rows"][2]
    cells = (" ".join(row[key].split()) for key in ("title", "before", "after", "difference"))
    assert f"| {' | '.join(cells)} |" in card
    assert str(finished.parent) not in card
    assert "CC BY 4.0" in card
    assert "not a diagnosis" in card
    assert "Which agent reverses" not in card  # no text of a case
    assert "Nothing was sent" in capsys.readouterr().out
    assert main(["push", str(finished), "someone/tiny-medical", *options]) == 1  # is there already


def test_the_adapter_and_a_base_for_it_are_two_files_for_ollama(finished, tmp_path):
    pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")
    output = tmp_path / "out"
    options = ["--to", "ollama", "--with-base", "--quant", "f16", "-o", str(output)]
    assert main(["export", str(finished), *options]) == 0
    text = (output / "Modelfile").read_text()
    assert text.startswith("FROM ./tiny-base-f16.gguf\nADAPTER ./tiny-adapter.gguf\n")
    rows = json.loads((output / "verification.json").read_text())
    assert [row["file"] for row in rows] == ["tiny-adapter.gguf", "tiny-base-f16.gguf"]
    assert rows[1]["fidelity"]["kl_mean"] < 0.01  # the adapter is on


def test_a_conversation_with_the_files_that_were_exported(finished, tmp_path, capsys, monkeypatch):
    pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")
    output = tmp_path / "out"
    target = ["--to", "gguf-adapter", "--with-base", "--quant", "f16", "--no-verify"]
    assert main(["export", str(finished), *target, "-o", str(output)]) == 0
    assert "not verified" in capsys.readouterr().out
    said = "/both\nWhat reverses iron?\n/base\nAnd lead?\n/help\n/clear\n/system Be short.\n/quit\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    files = ["--model", f"{output}/tiny-base-f16.gguf", "--adapter", f"{output}/tiny-adapter.gguf"]
    assert main(["chat", *files, "--max-new-tokens", "4", "--context", "900"]) == 0
    out = capsys.readouterr().out
    assert out.count("tokens/s") == 3  # both, then the base model alone
    assert "before (base model)" in out
    assert "after (tuned)" in out
    assert "answer with and without" in out
    assert "answers: before (base model)\n" in out  # of /base
    assert "forgotten" in out
    assert "system text set" in out
    assert "not a diagnosis" in out
    limits = ["--max-new-tokens", "4", "--thinking-budget", "2"]
    assert main(["ask", "What reverses iron?", *files[:2], "--template", "chatml", *limits]) == 0
    assert "after (tuned)" not in capsys.readouterr().out
    assert main(["ask", "What reverses iron?", *files, *limits]) == 0
    assert "after (tuned)" in capsys.readouterr().out
