"""What is sent to the hub: the card, and nothing where a file is not good or the hub refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

from medimind.config.catalogue import find_recipe
from medimind.config.load import load_recipe
from medimind.errors import ExportError
from medimind.export.card import model_card
from medimind.export.deliver import Delivered
from medimind.export.gguf import GgufFileWritten, License
from medimind.export.push import check_repo, refuse_bad, upload
from medimind.export.verify import Fidelity

FIDELITY = Fidelity(
    num_places=128,
    kl_mean=0.0123,
    kl_p95=0.05,
    agreement=0.97,
    num_texts=4,
    num_same_ids=4,
    num_round_trips=4,
)


def delivered(*problems: str) -> Delivered:
    file = GgufFileWritten(Path("tiny-q8_0.gguf"), "q8_0", 5 << 20, {"Q8_0": 4}, 1.0)
    return Delivered(file, "trained", FIDELITY, problems)


def card(**changes: Any) -> str:
    values: dict[str, Any] = {
        "repo": "someone/tiny",
        "base_model": "maker/base-1B",
        "license_": License("llama3.1", link="https://example.org/terms"),
        "parts": ("merged", "gguf"),
        "delivered": [delivered()],
        "provenance": {},
        "data": {},
        "report": {},
    }
    return model_card(load_recipe(find_recipe("starter")), **(values | changes))


def test_the_card_begins_with_what_the_hub_reads():
    front = yaml.safe_load(card().split("---")[1])
    assert front["license"] == "llama3.1"
    assert front["base_model"] == "maker/base-1B"
    assert front["library_name"] == "transformers"
    assert "gguf" in front["tags"]


def test_the_results_block_is_the_reports_under_the_repositorys_name():
    block = [{"name": "base-medimind", "results": [{"task": {"type": "question-answering"}}]}]
    front = yaml.safe_load(card(report={"model_index": block}).split("---")[1])
    assert front["model-index"] == [{**block[0], "name": "tiny"}]
    assert "model-index" not in yaml.safe_load(card().split("---")[1])


def test_the_card_names_licences_and_closeness():
    text = card()
    assert "| `tiny-q8_0.gguf` | 5.0 | 0.0123 | 97.0% |" in text
    assert "llama3.1 (https://example.org/terms)" in text
    assert "names no licence" in card(license_=License())
    assert "not verified" in card(delivered=[Delivered(delivered().file, "trained", None, ())])


def test_a_folder_of_this_machine_is_not_told(tmp_path):
    text = card(base_model=str(tmp_path / "base"), provenance={"model": {"name": str(tmp_path)}})
    assert str(tmp_path) not in text
    assert "base, tuned with QLoRA" in text


def test_what_was_not_compared_is_said():
    assert "has not been run" in card()


@pytest.mark.parametrize("repo", ["", "name", "a/b/c", "a b/c", "../up/x", "a/" + "x" * 97])
def test_names_that_the_hub_would_not_take(repo):
    with pytest.raises(ExportError, match="not the name of a repository"):
        check_repo(repo)


def test_a_file_that_is_not_good_is_not_sent():
    refuse_bad([delivered()])
    with pytest.raises(ExportError, match=r"KL 0\.5 is above"):
        refuse_bad([delivered(), delivered("KL 0.5 is above 0.1")])


class Hub:
    """A hub that keeps what it is given."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012

    def create_repo(self, repo: str, **options: Any) -> str:
        self.calls.append((repo, options))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, **options: Any) -> None:
        self.calls.append((options["repo_id"], options))


def test_a_repository_is_private_unless_asked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert upload(tmp_path, "someone/tiny", public=False).endswith("someone/tiny")
    assert Hub.calls[0][1]["private"] is True
    assert Hub.calls[1][1]["folder_path"] == tmp_path
    upload(tmp_path, "someone/tiny", public=True)
    assert Hub.calls[2][1]["private"] is False


def test_without_network_the_folder_is_not_lost(monkeypatch, tmp_path):
    class Unreachable(Hub):
        def create_repo(self, repo: str, **options: Any) -> str:
            raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "HfApi", Unreachable)
    with pytest.raises(ExportError, match="did not take it") as caught:
        upload(tmp_path, "someone/tiny", public=False)
    assert f"hf upload someone/tiny {tmp_path}" in str(caught.value)
