"""Generation on a card: the same tokens as the plain way; with graphs where there is a card."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from medimind.config import ModelConfig
from medimind.errors import NonFiniteError
from medimind.models import generate as generate_module
from medimind.models.generate import generate, stream
from medimind.models.graph_decode import GraphDecoder
from medimind.models.load import load_model
from medimind.models.lora import adapter_disabled, attach_lora, lora_parameters
from tiny_checkpoints import write_folder

PROMPTS = [[5, 17, 240, 3, 99], [41], [7, 8, 9, 10, 11, 12, 13, 14, 15], [100, 200], [3, 4, 5]]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def _model(tmp_path, family, device, *, quantization="none", adapter=True):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    folder = write_folder(tmp_path / family, family)
    model = load_model(
        ModelConfig(path=str(folder), quantization=quantization, device=device, dtype="float32")
    )
    if adapter:
        attach_lora(model.decoder, rank=3, alpha=6, seed=0)
        for index, parameter in enumerate(lora_parameters(model.decoder).values()):
            generator = torch.Generator().manual_seed(index)
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return dataclasses.replace(model, eos_ids=())


@pytest.fixture
def both_ways(monkeypatch):
    """Runs a function with the plain way and with the card's."""

    def run(model, function, **options):
        monkeypatch.setattr(generate_module, "graph_decoder", lambda decoder: None)
        plain = function(model)
        device = model.decoder.device.type
        card = GraphDecoder(model.decoder, graph=device == "cuda", **options)
        monkeypatch.setattr(generate_module, "graph_decoder", lambda decoder: card)
        return plain, function(model), card

    return run


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_greedy_tokens_are_those_of_the_plain_way(tmp_path, both_ways, family, resident, device):
    model = _model(tmp_path, family, device, quantization="nf4")

    def tokens(model):
        found = generate(model, PROMPTS, max_new_tokens=20, batch_size=8)
        return [g.token_ids for g in found]

    plain, card, _ = both_ways(model, tokens, resident=resident)
    assert card == plain
    assert len({token for ids in plain for token in ids}) > 10


@pytest.mark.parametrize("device", DEVICES)
def test_rows_end_at_different_steps_and_later_calls_use_the_same_memory(
    tmp_path, both_ways, device
):
    model = _model(tmp_path, "llama", device)
    endless = generate(model, PROMPTS, max_new_tokens=24, batch_size=8)
    often = endless[0].token_ids[5]
    model = dataclasses.replace(model, eos_ids=(often, endless[1].token_ids[2]))

    def tokens(model):
        long = generate(model, PROMPTS, max_new_tokens=24, batch_size=8)
        short = generate(model, PROMPTS[:3], max_new_tokens=9, batch_size=2)
        with adapter_disabled(model.decoder):
            base = generate(model, PROMPTS, max_new_tokens=12, batch_size=4)
        again = generate(model, PROMPTS, max_new_tokens=24, batch_size=8)
        assert [g.token_ids for g in again] == [g.token_ids for g in long]
        return [g.token_ids for g in (*long, *short, *base)]

    plain, card, decoder = both_ways(model, tokens)
    assert card == plain
    assert len({len(ids) for ids in plain[:5]}) > 1
    memory = decoder.keys[0].data_ptr()
    generate(model, PROMPTS, max_new_tokens=24, batch_size=8)
    assert decoder.keys[0].data_ptr() == memory


@pytest.mark.parametrize("device", DEVICES)
def test_sampling_and_thinking_budget_are_those_of_the_plain_way(tmp_path, both_ways, device):
    model = _model(tmp_path, "llama", device)

    def texts(model):
        found = generate(
            model,
            PROMPTS,
            max_new_tokens=30,
            thinking_budget=7,
            temperature=0.8,
            top_p=0.9,
            seed=5,
            batch_size=3,
        )
        streamed = "".join(stream(model, PROMPTS[0], max_new_tokens=15))
        return [(g.token_ids, g.text, g.num_thinking_tokens) for g in found], streamed

    plain, card, _ = both_ways(model, texts)
    assert card == plain


@pytest.mark.parametrize("device", DEVICES)
def test_a_changed_adapter_is_taken_over(tmp_path, both_ways, device):
    model = _model(tmp_path, "llama", device)
    before = [p.detach().clone() for p in lora_parameters(model.decoder).values()]

    def tokens(model):
        parameters = lora_parameters(model.decoder).values()
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data.copy_(value)
        first = generate(model, PROMPTS, max_new_tokens=12, batch_size=8)
        for parameter in parameters:
            parameter.data.mul_(-1.5)
        second = generate(model, PROMPTS, max_new_tokens=12, batch_size=8)
        return [[g.token_ids for g in out] for out in (first, second)]

    plain, card, _ = both_ways(model, tokens)
    assert card == plain
    assert plain[0] != plain[1]


@pytest.mark.parametrize("device", DEVICES)
def test_logits_that_are_not_finite_stop_the_generation(tmp_path, both_ways, device):
    model = _model(tmp_path, "llama", device, adapter=False)
    card = GraphDecoder(model.decoder, graph=device == "cuda")
    cache = card.new_cache([1], capacity=8)
    assert cache.capacity >= 8
    model.decoder.head.fill_(torch.nan)

    def fails(model):
        with pytest.raises(NonFiniteError):
            generate(model, PROMPTS[:1], max_new_tokens=4)

    both_ways(model, fails)
