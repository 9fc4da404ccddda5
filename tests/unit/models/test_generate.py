"""Generation: transformers' greedy tokens, limits, and sampling."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from transformers import AutoModelForCausalLM

from medimind.cli.answers import each_piece
from medimind.config import ModelConfig
from medimind.errors import NonFiniteError, PromptError
from medimind.models.architecture import PROJECTIONS
from medimind.models.cache import KvCache
from medimind.models.decode_step import DecodeStep
from medimind.models.generate import generate, stream
from medimind.models.load import load_model
from medimind.models.lora import adapter_disabled, attach_lora, lora_parameters
from medimind.models.output_row import OutputRow, RowLimits
from medimind.models.reading import new_cache, read_prompts
from medimind.models.sampling import draw, pick_tokens, prompt_generators
from medimind.prompts.stream import StreamDecoder
from tiny_checkpoints import write_folder

PROMPTS = [[5, 17, 240, 3, 99], [41], [7, 8, 9, 10, 11, 12, 13, 14, 15], [100, 200]]


@pytest.fixture
def endless(tiny):
    """The tiny model without EOS: every output has the full length."""
    return dataclasses.replace(tiny, eos_ids=())


def theirs(reference, prompt, *, max_new_tokens, eos):
    with torch.no_grad():
        out = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_greedy_tokens_are_transformers(tmp_path, family):
    folder = write_folder(tmp_path / family, family)
    model = load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = [theirs(reference, p, max_new_tokens=24, eos=[2, 9]) for p in PROMPTS]
    # A second EOS that comes early in one row, so that rows end at different steps.
    often = max((t for out in expected for t in out), key=lambda t: sum(t in o for o in expected))
    expected = [theirs(reference, p, max_new_tokens=24, eos=[2, often]) for p in PROMPTS]
    model = dataclasses.replace(model, eos_ids=(2, often))
    found = generate(model, PROMPTS, max_new_tokens=24, batch_size=4)
    assert [list(g.token_ids) for g in found] == expected
    assert len({len(out) for out in expected}) > 1
    for generation in found:
        ended = generation.token_ids[-1] in model.eos_ids
        assert generation.finish_reason == ("stop" if ended else "length")


@pytest.mark.slow
def test_greedy_tokens_of_the_built_in_model_are_transformers(smollm2_reference):
    model = load_model(ModelConfig(path="smollm2-135m-instruct", quantization="none", device="cpu"))
    questions = ["What is the capital of France?", "List three causes of chest pain."]
    prompts = [
        model.tokenizer.encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n")
        for q in questions
    ]
    found = generate(model, prompts, max_new_tokens=16)
    assert [list(g.token_ids) for g in found] == [
        theirs(smollm2_reference, prompt, max_new_tokens=16, eos=2) for prompt in prompts
    ]
    assert found[0].text == "The capital of France is Paris."
    assert found[0].finish_reason == "stop"


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_prompt_gets_the_same_in_any_company(endless, temperature):
    options = {"max_new_tokens": 12, "temperature": temperature, "top_p": 0.9, "seed": 4}
    together = generate(endless, PROMPTS, batch_size=4, **options)
    alone = [generate(endless, [prompt], **options)[0] for prompt in PROMPTS]
    backwards = generate(endless, PROMPTS[::-1], batch_size=3, **options)[::-1]
    assert together == alone == backwards
    assert all(len(g.token_ids) == 12 and g.finish_reason == "length" for g in together)


def test_sampling_follows_the_seed(endless):
    def sample(seed, prompts=PROMPTS[:2]):
        return generate(endless, prompts, max_new_tokens=12, temperature=1.0, seed=seed)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    twice = sample(1, [PROMPTS[0], PROMPTS[0]])
    assert twice[0] != twice[1]


def test_pieces_of_a_stream_make_the_text(endless):
    options = {"max_new_tokens": 20, "temperature": 0.7, "seed": 3, "stop": ("zzz", "\n\n")}
    (whole,) = generate(endless, PROMPTS[:1], **options)
    pieces = []
    reason = each_piece(stream(endless, PROMPTS[0], **options), pieces.append)
    assert ("".join(pieces), reason) == (whole.text, whole.finish_reason)
    assert len(pieces) > 1
    assert torch.is_grad_enabled()
    unfinished = stream(endless, PROMPTS[0], max_new_tokens=20)
    next(unfinished)
    assert torch.is_grad_enabled()
    unfinished.close()


def test_a_stop_string_ends_the_output_and_is_cut_off(endless):
    (free,) = generate(endless, PROMPTS[:1], max_new_tokens=20)
    stop = free.text[3:6]
    (stopped,) = generate(endless, PROMPTS[:1], max_new_tokens=20, stop=("never there", stop))
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]
    assert len(stopped.token_ids) < 20
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]


def test_the_thinking_budget_forces_the_closing_tag(endless):
    close = "\n</think>\n\n"
    tag_ids = endless.tokenizer.encode(close)
    found = generate(endless, PROMPTS, max_new_tokens=30, thinking_budget=5, reasoning_close=close)
    for generation in found:
        assert list(generation.token_ids[5 : 5 + len(tag_ids)]) == tag_ids
        assert generation.text.count("</think>") == 1
        assert 5 < generation.num_thinking_tokens <= 5 + len(tag_ids)
        thinking = generation.token_ids[: generation.num_thinking_tokens]
        assert "</think>" in endless.tokenizer.decode(thinking)
        assert "</think>" not in endless.tokenizer.decode(thinking[:-1])
    free = generate(endless, PROMPTS[:1], max_new_tokens=30)[0]
    assert free.num_thinking_tokens == 30
    # What is forced is read by the model: it goes on from there as from a prompt.
    after = generate(
        endless, [[*PROMPTS[0], *found[0].token_ids[: 5 + len(tag_ids)]]], max_new_tokens=4
    )[0]
    assert found[0].token_ids[5 + len(tag_ids) :][:4] == after.token_ids


def test_progress_counts_every_prompt(endless):
    calls = []
    generate(
        endless,
        PROMPTS,
        max_new_tokens=3,
        batch_size=3,
        on_progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert generate(endless, [], max_new_tokens=3) == []


def test_a_batch_that_needs_too_much_memory_is_halved(endless, monkeypatch, caplog):
    expected = generate(endless, PROMPTS, max_new_tokens=6, temperature=0.9)
    create = KvCache.__init__

    def limited(self, num_layers, *, lengths, **options):
        if len(lengths) > 1:
            raise torch.OutOfMemoryError
        create(self, num_layers, lengths=lengths, **options)

    monkeypatch.setattr(KvCache, "__init__", limited)
    assert generate(endless, PROMPTS, max_new_tokens=6, temperature=0.9) == expected
    assert "going on with 1 prompts at once" in caplog.text

    def never(self, *args, **options):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(KvCache, "__init__", never)
    with pytest.raises(torch.OutOfMemoryError):
        generate(endless, PROMPTS, max_new_tokens=6)


def test_prompts_that_cannot_be_read_are_told(endless):
    for prompt, message in (
        ([], "has no token"),
        ([1] * 512, "has 512 tokens, the model reads 512"),
        ([320], "outside of the model's vocabulary of 320"),
        ([-1], "outside of the model's vocabulary"),
    ):
        with pytest.raises(PromptError, match=message):
            generate(endless, [[1], prompt], max_new_tokens=4)
    (short,) = generate(endless, [[1] * 508], max_new_tokens=50)
    assert len(short.token_ids) == 4
    assert short.finish_reason == "length"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_stop_the_generation(endless, temperature):
    attach_lora(endless.decoder, rank=2, alpha=2, seed=0)
    with torch.no_grad():
        for parameter in lora_parameters(endless.decoder).values():
            parameter.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        generate(endless, PROMPTS, max_new_tokens=4, temperature=temperature)


def test_dropout_is_off_while_generating(endless):
    attach_lora(endless.decoder, rank=2, alpha=2, dropout=0.9, seed=0)
    with torch.no_grad():
        for parameter in lora_parameters(endless.decoder).values():
            parameter.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.3)
    endless.decoder.train()
    first = generate(endless, PROMPTS, max_new_tokens=6)
    assert generate(endless, PROMPTS, max_new_tokens=6) == first
    assert endless.decoder.training


FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]


@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj", "up_proj"), PROJECTIONS])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_lean_step_gives_the_layers_hidden_states(tmp_path, family, targets):
    folder = write_folder(tmp_path / family, family)
    model = load_model(ModelConfig(path=str(folder), quantization="none", device="cpu"))
    decoder = model.decoder
    if targets:
        attach_lora(decoder, rank=3, alpha=2, targets=targets, seed=0)
        with torch.no_grad():
            for parameter in lora_parameters(decoder).values():
                parameter.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.3)
    for enabled in (True, False) if targets else (True,):
        with torch.no_grad(), nullcontext() if enabled else adapter_disabled(decoder):
            step = DecodeStep.of(decoder)
            assert step is not None
            for prompts in (PROMPTS, PROMPTS[:1]):
                found, expected = (
                    _two_steps(model, prompts, read)
                    for read in (
                        lambda ids, cache, step=step: step(ids, cache=cache),
                        lambda ids, cache: decoder.forward_cached(ids[:, None], cache=cache)[:, 0],
                    )
                )
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def _two_steps(model, prompts, read):
    cache = new_cache(model.decoder, [len(p) for p in prompts], capacity=20)
    read_prompts(model.decoder, prompts, cache)
    read(torch.tensor([3, 30, 60, 90][: len(prompts)]), cache)
    return read(torch.tensor([4, 40, 70, 99][: len(prompts)]), cache)


def test_without_dense_neighbours_the_layers_are_run(endless):
    expected = generate(endless, PROMPTS, max_new_tokens=6)
    projection = endless.decoder.layers[1].self_attn.k_proj
    projection.weight = torch.nn.Parameter(projection.weight.data.clone(), requires_grad=False)
    assert DecodeStep.of(endless.decoder) is None
    assert generate(endless, PROMPTS, max_new_tokens=6) == expected


def test_drawn_tokens_have_their_probabilities():
    probabilities = torch.tensor([[0.5, 0.25, 0.0, 0.15, 0.1]])
    uniforms = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    for top_p, expected in (
        (1.0, [0.5, 0.25, 0, 0.15, 0.1]),
        (0.7, [2 / 3, 1 / 3, 0, 0, 0]),
        (0.5, [1, 0, 0, 0, 0]),
        (0.05, [1, 0, 0, 0, 0]),
        (0.85, [0.5 / 0.9, 0.25 / 0.9, 0, 0.15 / 0.9, 0]),
    ):
        drawn = draw(probabilities.expand(10_000, 5), top_p=top_p, uniforms_B=uniforms)
        counts = np.bincount(drawn.numpy(), minlength=5) / 10_000
        np.testing.assert_allclose(counts, expected, atol=2e-4)


def test_a_nucleus_of_more_tokens_than_guessed():
    probabilities = torch.full((1, 2000), 1 / 2000)
    uniforms = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    drawn = draw(probabilities.expand(4000, 2000), top_p=0.9, uniforms_B=uniforms)
    assert len(set(drawn.tolist())) in (1800, 1801)


def test_sampled_tokens_fit_the_softmax():
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]])
    generators = prompt_generators([[0]] * 4000, seed=0)
    ids = pick_tokens(logits.expand(4000, 4), temperature=0.7, top_p=1.0, generators=generators)
    expected = torch.softmax(logits[0] / 0.7, -1).double().numpy() * 4000
    expected *= 4000 / expected.sum()
    assert stats.chisquare(np.bincount(ids, minlength=4), expected).pvalue > 1e-3


def test_a_tiny_temperature_is_greedy():
    logits = torch.tensor([[1.0, 3.0, 2.999]])
    generators = prompt_generators([[0]], seed=0)
    assert pick_tokens(logits, temperature=1e-30, top_p=1.0, generators=generators) == [1]


def row_of(pieces, **limits):
    """A row whose token ``i`` decodes to ``pieces[i]``."""
    values = {
        "max_new_tokens": 1000,
        "eos_ids": frozenset(),
        "stop": (),
        "thinking_budget": None,
        "close_tag": "",
        "close_ids": (),
    }
    decoder = StreamDecoder(lambda ids: "".join(pieces[i] for i in ids))
    return OutputRow(0, decoder, RowLimits(**(values | limits)))


@settings(deadline=None)
@given(
    pieces=st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=12),
    stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_streamed_text_is_the_text_before_the_first_stop(pieces, stop):
    row = row_of(pieces, stop=tuple(stop), max_new_tokens=len(pieces))
    streamed = ""
    for index in range(len(pieces)):
        row.push(index)
        streamed += row.take_text()
        assert not any(text in streamed for text in stop)
        if row.finish_reason:
            break
    whole = "".join(pieces[: len(row.token_ids)])
    starts = [whole.index(text) for text in stop if text in whole]
    assert row.text == streamed == whole[: min(starts, default=len(whole))]
    assert row.finish_reason == ("stop" if starts else "length")


def test_a_cache_refuses_more_than_it_holds():
    options = {"num_kv_heads": 1, "head_dim": 2, "dtype": torch.float32, "device": "cpu"}
    cache = KvCache(1, lengths=[2, 1], capacity=4, **options)
    keys = torch.ones(3, 1, 2)
    cache.append_packed(0, keys, keys)
    cache.advance()
    assert cache.num_rows == 2
    assert cache.attention_mask(1).squeeze().tolist() == [[True] * 3, [False, True, True]]
    assert cache.position_ids(2).tolist() == [[2, 3], [1, 2]]
    with pytest.raises(AssertionError, match="prompts come first"):
        cache.append_packed(0, keys, keys)
    with pytest.raises(AssertionError, match="cannot take 5"):
        cache.append(0, torch.ones(2, 1, 3, 2), torch.ones(2, 1, 3, 2))
    cache.keep([1])
    assert cache.attention_mask(2).squeeze().tolist() == [
        [False, True, True, False],
        [False, True, True, True],
    ]
