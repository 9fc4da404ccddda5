"""Our models under the harness's protocol, beside what transformers gives the same weights."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from medimind.config import ModelConfig
from medimind.errors import EvaluationError
from medimind.models.load import Model, load_model
from medimind.models.lora import attach_lora, lora_parameters
from tiny_checkpoints import write_folder

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the harness's own, at import
    pytest.importorskip("lm_eval")
    from lm_eval.api.registry import get_model

    from medimind.evaluation.lm_eval import MediMindLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(
        tmp_path_factory.mktemp("harness") / "llama", "llama", max_position_embeddings=64
    )


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))


@pytest.fixture(scope="module")
def reference(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def asks(*arguments):
    return [SimpleNamespace(args=one) for one in arguments]


def scored(reference, prompt, ids) -> tuple[float, bool]:
    with torch.no_grad():
        logits = reference(torch.tensor([[*prompt, *ids]])).logits[0].float().log_softmax(-1)
    rows = logits[len(prompt) - 1 : -1]
    picked = rows.gather(1, torch.tensor(ids)[:, None]).sum().item()
    return picked, rows.argmax(-1).tolist() == ids


def test_it_is_registered_by_name() -> None:
    assert get_model("medimind") is MediMindLM


def test_loglikelihoods_are_those_of_transformers(model, reference) -> None:
    lm = MediMindLM(model=model)
    pairs = [
        ("the patient has", " flu"),
        ("the patient has", " a cold and fever"),
        ("pain of the ", "patient"),  # a space at the end belongs to the continuation
        ("", "the patient"),
    ]
    found = lm.loglikelihood(asks(*pairs))
    for (context, continuation), (logprob, is_greedy) in zip(pairs, found, strict=True):
        prompt, ids = lm._pair(context, continuation)
        wanted, wanted_greedy = scored(reference, prompt, ids)
        assert logprob == pytest.approx(wanted, abs=1e-4)
        assert is_greedy is wanted_greedy


def test_a_greedy_continuation_is_known_as_one(model, reference) -> None:
    lm = MediMindLM(model=model)
    prompt = lm._prompt("the patient has")
    with torch.no_grad():
        out = reference.generate(
            torch.tensor([prompt]), max_new_tokens=3, do_sample=False, pad_token_id=0
        )
    ids = out[0, len(prompt) :].tolist()
    from medimind.models.options import Choice, continuation_scores

    other = [*ids[:-1], (ids[-1] + 1) % model.architecture.vocab_size]
    (((_, first), (_, second)),) = continuation_scores(model, [Choice(prompt, [ids, other])])
    assert (first, second) == (True, False)


def test_rolling_counts_every_token_once(model, reference) -> None:
    lm = MediMindLM(model=model)
    text = "the patient has pain"
    ids = model.tokenizer.encode(text)
    wanted, _ = scored(reference, [lm._prefix_id()], ids)
    assert lm.loglikelihood_rolling(asks((text,)))[0] == pytest.approx(wanted, abs=1e-3)
    long = "the patient has pain " * 40  # in several windows
    assert len(model.tokenizer.encode(long)) > lm.max_length
    assert lm.loglikelihood_rolling(asks((long,)))[0] < wanted


def test_generation_stops_where_the_task_says(model) -> None:
    lm = MediMindLM(model=model, batch_size=2)
    whole, short = (
        lm.generate_until(asks(("the patient has", {"until": until, "max_gen_toks": 12})))[0]
        for until in ([], None)
    )
    assert whole == short
    cut = whole[3:6]
    stopped = lm.generate_until(
        asks(("the patient has", {"until": [cut], "max_gen_toks": 12}), ("pain", {"until": "x"}))
    )
    assert stopped[0] == whole[: whole.index(cut)]


def test_a_prompt_that_is_too_long_keeps_its_end(model, caplog) -> None:
    lm = MediMindLM(model=model)
    long = "the patient has pain " * 40
    with caplog.at_level("WARNING"):
        assert len(lm.loglikelihood(asks((long, " flu")))) == 1
    assert "is cut to its last" in caplog.text


def test_the_adapter_is_off_and_on(folder) -> None:
    tuned = load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))
    attach_lora(tuned.decoder, rank=4, alpha=8, seed=1)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in lora_parameters(tuned.decoder).items():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    ask = asks(("the patient has", " flu"))
    base = MediMindLM(model=tuned, variant="base").loglikelihood(ask)
    on = MediMindLM(model=tuned).loglikelihood(ask)
    bare = MediMindLM(pretrained=str(folder), device="cpu").loglikelihood(ask)
    assert base == bare
    assert base != on
    with pytest.raises(EvaluationError, match="no adapter"):
        MediMindLM(pretrained=str(folder), variant="tuned", device="cpu")
    with pytest.raises(EvaluationError, match="name a model"):
        MediMindLM()


def test_the_harness_names_a_card_where_nobody_did(folder) -> None:
    """``lm_eval run`` without ``--device`` passes cuda:0 on, on every machine."""
    found = MediMindLM(pretrained=str(folder), device="cuda:0")
    assert found.model.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(EvaluationError, match="'cuda:1' cannot be chosen"):
        MediMindLM(pretrained=str(folder), device="cuda:1")
    with pytest.raises(EvaluationError, match="dtype"):
        MediMindLM(pretrained=str(folder), dtype="half")
