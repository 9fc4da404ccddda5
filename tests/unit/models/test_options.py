"""Likelihoods of continuations: the whole text's log-probabilities, whatever is read at once."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medimind.config import ModelConfig
from medimind.errors import PromptError
from medimind.models.architecture import PROJECTIONS
from medimind.models.load import load_model
from medimind.models.lora import attach_lora, lora_parameters
from medimind.models.options import Choice, Score, continuation_scores, option_logprobs
from tiny_checkpoints import write_folder

CHOICES = [
    Choice([7, 8, 9, 10, 11, 12, 13, 14, 15], [[4], [5, 6, 7], [8, 9]]),
    Choice([41], [[5], [6]]),
    Choice([5, 17, 240, 3, 99], [[4, 4, 4, 4], [4, 4, 4, 5]]),
    Choice([100, 200], [[3]]),
]


def by_whole_texts(model, choice: Choice) -> list[Score]:
    """Each continuation by a pass of its own over its whole text."""
    scores = []
    for continuation in choice.continuations:
        ids = torch.tensor([*choice.prompt_ids, *continuation])
        with torch.no_grad():
            hidden_TD = model.decoder(
                ids, torch.arange(len(ids)), cu_seqlens=[0, len(ids)], max_seqlen=len(ids)
            )
            logprobs_TV = model.decoder.logits(hidden_TD).double().log_softmax(-1)
        rows = range(len(choice.prompt_ids) - 1, len(ids) - 1)
        likeliest = [logprobs_TV[row].argmax() == ids[row + 1] for row in rows]
        scores.append(
            Score(sum(logprobs_TV[row, ids[row + 1]].item() for row in rows), all(likeliest))
        )
    return scores


def assert_same(found: list[list[Score]], expected: list[list[Score]]) -> None:
    assert [len(some) for some in found] == [len(some) for some in expected]
    for some, wanted in zip(found, expected, strict=True):
        for one, other in zip(some, wanted, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert one.is_greedy == other.is_greedy


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tokens_per_pass", [1, 16, None])
def test_each_continuation_sees_its_prompt_and_itself(tmp_path, family, tokens_per_pass):
    folder = write_folder(tmp_path / family, family)
    model = load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))
    attach_lora(model.decoder, rank=4, alpha=8, dropout=0.5, targets=PROJECTIONS, seed=1)
    for parameter in lora_parameters(model.decoder).values():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(2))
    found = continuation_scores(model, CHOICES, tokens_per_pass=tokens_per_pass)
    model.decoder.eval()
    assert_same(found, [by_whole_texts(model, choice) for choice in CHOICES])


@pytest.mark.gpu
def test_a_card_says_what_the_cpu_says(tmp_path):
    folder = write_folder(tmp_path / "llama", "llama")
    found = [
        continuation_scores(
            load_model(
                ModelConfig(path=str(folder), quantization="none", dtype="float32", device=device)
            ),
            CHOICES,
        )
        for device in ("cpu", "cuda")
    ]
    assert_same(found[1], found[0])


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the model is only read
)
@given(st.data())
def test_what_is_read_together_changes_nothing(tiny, data):
    ids = st.lists(st.integers(0, 255), min_size=1, max_size=6)
    choices = data.draw(
        st.lists(st.builds(Choice, ids, st.lists(ids, min_size=0, max_size=4)), max_size=5)
    )
    found = continuation_scores(tiny, choices, tokens_per_pass=data.draw(st.integers(1, 60)))
    assert_same(found, [by_whole_texts(tiny, choice) for choice in choices])


def test_the_likeliest_continuation_is_known_as_greedy(tiny):
    prompt = list(CHOICES[0].prompt_ids)
    for _ in range(3):  # the greedy text, token by token
        ids = torch.tensor(prompt)
        with torch.no_grad():
            hidden_TD = tiny.decoder(
                ids, torch.arange(len(ids)), cu_seqlens=[0, len(ids)], max_seqlen=len(ids)
            )
            prompt.append(int(tiny.decoder.logits(hidden_TD)[-1].argmax()))
    start = len(CHOICES[0].prompt_ids)
    greedy, other = prompt[start:], [*prompt[start:-1], (prompt[-1] + 1) % 256]
    (scores,) = continuation_scores(tiny, [Choice(prompt[:start], [greedy, other])])
    assert [score.is_greedy for score in scores] == [True, False]


def test_figures_are_told_as_passes_end(tiny):
    told = []
    found = option_logprobs(
        tiny,
        [*CHOICES, Choice([5], [])],
        tokens_per_pass=8,
        on_logprobs=lambda index, logprobs: told.append((index, logprobs)),
    )
    assert found[-1] == []
    assert [index for index, _ in told] == [0, 2, 3, 1]  # long prompts first
    assert all(found[index] == logprobs for index, logprobs in told)


def test_less_memory_takes_more_passes(tiny, monkeypatch):
    expected = continuation_scores(tiny, CHOICES)
    sizes = []
    read = tiny.decoder.hidden_states

    def within_12_tokens(token_ids_T, *rest, **options):
        sizes.append(len(token_ids_T))
        if len(token_ids_T) > 12:
            raise torch.OutOfMemoryError("too much")
        return read(token_ids_T, *rest, **options)

    monkeypatch.setattr(tiny.decoder, "hidden_states", within_12_tokens)
    assert_same(continuation_scores(tiny, CHOICES), expected)
    assert sizes[0] == 17
    assert max(sizes[1:]) <= 12
    monkeypatch.setattr(
        tiny.decoder,
        "hidden_states",
        lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("too much")),
    )
    with pytest.raises(torch.OutOfMemoryError):
        continuation_scores(tiny, CHOICES)


@pytest.mark.parametrize(
    "choice",
    [Choice([], [[4]]), Choice([4], [[5], []]), Choice([4], [[5] * 600]), Choice([4], [[10**6]])],
)
def test_what_the_model_cannot_read_is_refused(tiny, choice):
    with pytest.raises(PromptError):
        option_logprobs(tiny, [CHOICES[0], choice])


def test_nothing_asked_is_nothing_found(tiny):
    assert option_logprobs(tiny, []) == []
    assert math.isfinite(option_logprobs(tiny, CHOICES)[3][0])
