"""Generation on a card: the same tokens as the plain way; with graphs where there is a card."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import partial

import pytest
import torch

from medimind.config import ModelConfig
from medimind.errors import ConfigError, NonFiniteError
from medimind.kernels.fp8 import reference
from medimind.kernels.nf4 import quantize_nf4
from medimind.kernels.nf4_linear.repack import unpack
from medimind.models import generate as generate_module
from medimind.models.fused.group import fuse_layer
from medimind.models.generate import generate, stream
from medimind.models.graph_decode import GraphDecoder, unit_products
from medimind.models.graph_decode.products import Nf4Products
from medimind.models.graph_decode.unit_products import UnitProducts
from medimind.models.load import load_model
from medimind.models.lora import adapter_disabled, attach_lora, lora_parameters
from medimind.models.projection import Projection
from medimind.models.reading import new_cache, read_prompts
from tiny_checkpoints import write_folder

PROMPTS = [[5, 17, 240, 3, 99], [41], [7, 8, 9, 10, 11, 12, 13, 14, 15], [100, 200], [3, 4, 5]]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def _model(
    tmp_path, family, device, *, quantization="none", adapter=True, dtype="float32", **shape
):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    folder = write_folder(tmp_path / family, family, **shape)
    model = load_model(
        ModelConfig(path=str(folder), quantization=quantization, device=device, dtype=dtype)
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
@pytest.mark.parametrize("held", ["scratch", "dense"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_greedy_tokens_are_those_of_the_plain_way(tmp_path, both_ways, family, held, device):
    model = _model(tmp_path, family, device, quantization="nf4")

    def tokens(model):
        found = generate(model, PROMPTS, max_new_tokens=20, batch_size=8)
        return [g.token_ids for g in found]

    plain, card, _ = both_ways(model, tokens, held=held)
    assert card == plain
    assert len({token for ids in plain for token in ids}) > 10


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("family", "adapter", "held"),
    [
        ("llama", True, "nf4"),
        ("qwen2", False, "nf4"),
        ("qwen2", True, "dense"),
        ("qwen3", True, "nf4"),
    ],
)
def test_weights_are_multiplied_as_nf4(tmp_path, both_ways, family, adapter, held, device):
    model = _model(
        tmp_path,
        family,
        device,
        quantization="nf4",
        adapter=adapter,
        hidden_size=128,
        intermediate_size=192,
    )
    _hold_nf4(model.decoder)

    def tokens(model):
        found = generate(model, PROMPTS, max_new_tokens=20, batch_size=8)
        with adapter_disabled(model.decoder) if adapter else contextlib.nullcontext():
            base = generate(model, PROMPTS, max_new_tokens=10, batch_size=8)
        alone = generate(model, PROMPTS[:2], max_new_tokens=10, batch_size=1)
        return [g.token_ids for g in (*found, *base, *alone)]

    plain, card, decoder = both_ways(model, tokens, held=held)
    assert isinstance(decoder.products, Nf4Products)
    assert (decoder.products.many is None) == (held == "nf4")
    assert card == plain
    assert len({token for ids in plain for token in ids}) > 10


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("family", "adapter"), [("llama", True), ("qwen2", False), ("qwen3", True)]
)
def test_weights_are_multiplied_as_units(tmp_path, family, adapter, device):
    """The logits of each step are those of the plain way over the weights that units hold."""
    dtype = "bfloat16" if device == "cuda" else "float32"
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("no Hopper")
    shape = {"hidden_size": 128, "intermediate_size": 256}
    options = {"quantization": "nf4", "adapter": adapter, "dtype": dtype, **shape}
    model = _model(tmp_path, family, device, **options)
    _hold_nf4(model.decoder)
    card = GraphDecoder(model.decoder, held="units", graph=device == "cuda")
    assert isinstance(card.products.many, UnitProducts)
    for layer in card.layers:
        for name, group in layer.groups.items():
            weight = unpack(card.products.many.units[layer.index, name]).to(model.dtype)
            for projection, rows in group._rows():
                projection.nf4 = None
                projection.weight = torch.nn.Parameter(weight[rows], requires_grad=False)
    rows, sequences = len(PROMPTS), [list(prompt) for prompt in PROMPTS]
    cache = card.new_cache([len(p) for p in PROMPTS], capacity=32)
    with torch.no_grad():
        read_prompts(model.decoder, PROMPTS, cache)
        card.begin(cache)
        for step in range(4):
            ids = [(37 * step + 11 * row) % 256 for row in range(rows)]
            found = card.step(torch.tensor(ids, device=device)).logits_BV[:rows].float()
            for sequence, token in zip(sequences, ids, strict=True):
                sequence.append(token)
            hidden = read_prompts(model.decoder, sequences, _plain_cache(model, sequences))
            exact = model.decoder.logits(hidden)
            limit = 3e-2 if device == "cuda" else 1e-4
            assert float((found - exact).norm() / exact.norm()) < limit


def test_units_are_refused_with_a_reason(tmp_path, monkeypatch):
    model = _model(tmp_path, "llama", "cpu", quantization="nf4", adapter=False, hidden_size=128)
    layers = [fuse_layer(layer) for layer in model.decoder.layers]
    card = torch.device("cuda")

    def reason(*, capability=9, triton="3.6.0", dtype=torch.bfloat16):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
        monkeypatch.setattr(unit_products, "version", lambda name: triton)
        return unit_products.why_no_units(layers, dtype=dtype, device=card)

    assert "not a Hopper" in unit_products.why_no_units(
        layers, dtype=torch.bfloat16, device=torch.device("cpu")
    )
    assert "not a Hopper" in reason(capability=10)
    assert "Triton 3.6" in reason(triton="3.7.1")
    assert "float16" in reason(dtype=torch.float16)
    assert "qkv" in reason()
    _hold_nf4(model.decoder)
    assert "down" in reason()  # its width of 96 is no whole unit
    wide = _model(
        tmp_path / "wide",
        "llama",
        "cpu",
        quantization="nf4",
        adapter=False,
        hidden_size=128,
        intermediate_size=256,
    )
    _hold_nf4(wide.decoder)
    layers = [fuse_layer(layer) for layer in wide.decoder.layers]
    assert reason() is None


def _plain_cache(model, sequences):
    lengths = [len(sequence) for sequence in sequences]
    return new_cache(model.decoder, lengths, capacity=max(lengths))


def _hold_nf4(decoder):
    """On a CPU too, where loading writes the values back instead."""
    for _, projection in decoder.projections():
        if projection.nf4 is None:
            projection.nf4 = quantize_nf4(projection.weight.data)
            projection.weight = None


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


def test_no_step_is_computed_after_the_last_token(tmp_path, both_ways, monkeypatch):
    model = _model(tmp_path, "llama", "cpu")
    steps = []
    step = GraphDecoder.step
    monkeypatch.setattr(
        GraphDecoder, "step", lambda self, ids: steps.append(len(ids)) or step(self, ids)
    )

    def tokens(model):
        return [g.token_ids for g in generate(model, PROMPTS, max_new_tokens=6, batch_size=8)]

    plain, card, _ = both_ways(model, tokens)
    assert card == plain
    assert steps == [5] * 5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("family", "adapter"), [("llama", True), ("qwen2", False), ("qwen2", True), ("qwen3", True)]
)
@torch.no_grad()
def test_prompts_in_fp8_are_read_as_products_in_fp8(tmp_path, monkeypatch, family, adapter, device):
    on_card = device == "cuda" and torch.cuda.is_available()
    if on_card and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("the card has no fp8")
    dtype = "float32" if device == "cpu" else "bfloat16"
    model = _model(tmp_path, family, device, adapter=adapter, dtype=dtype, hidden_size=128)
    card = GraphDecoder(model.decoder, graph=False)
    exact = _states(model, card, None)
    found = _states(model, card, partial(card.fp8_prompts.hidden_states, adapter=adapter))
    monkeypatch.setattr(Projection, "forward", _fp8_forward)
    expected = _states(model, card, None)
    # In bf16 the inputs of a product are rounded elsewhere, and then to other values of e4m3.
    limit = 1e-4 if device == "cpu" else 0.15
    for one, other, plain in zip(found, expected, exact, strict=True):
        assert float((one - other).norm() / other.norm()) < limit
        assert float((one - plain).norm() / plain.norm()) > 0.005


def _states(model, card, read):
    """Hidden states of the last tokens, keys and values, after the prompts."""
    cache = card.new_cache([len(p) for p in PROMPTS], capacity=32)
    hidden = read_prompts(model.decoder, PROMPTS, cache, read=read)
    longest = max(map(len, PROMPTS))
    assert cache.length == longest
    stored = [
        torch.stack([x[row, :, start:longest].clone() for x in (*cache.keys, *cache.values)])
        for row, start in enumerate(cache.start_B.tolist())
    ]
    return hidden.float(), torch.cat(stored, dim=2).float()


def _fp8_forward(self, x_TD):
    """A projection in fp8 by the references."""
    quantized = []
    for matrix in (x_TD, self.dense()):
        values = torch.empty(matrix.shape, dtype=torch.float8_e4m3fn, device=matrix.device)
        scale = torch.empty(len(matrix), device=matrix.device)
        quantized += reference.quantize_rows(matrix, out_TI=values, scale_T=scale)
    update = None
    if self.has_adapter:
        a, b = self.adapter(dtype=x_TD.dtype)
        update = x_TD @ a.t(), b * self.scaling
    out = reference.fp8_linear(
        *quantized, update=update, out_TO=x_TD.new_empty(len(x_TD), self.out_features)
    )
    return out if self.bias is None else out + self.bias


def test_fp8_is_refused_where_there_is_none(tmp_path):
    folder = write_folder(tmp_path / "llama", "llama")
    config = ModelConfig(path=str(folder), device="cpu", prompt_precision="fp8")
    with pytest.raises(ConfigError, match="needs a CUDA card"):
        load_model(config)


def test_fp8_prompts_are_generated_from_and_told(tmp_path, both_ways):
    model = _model(tmp_path, "llama", "cpu", hidden_size=128)
    fast = dataclasses.replace(model, prompt_precision="fp8")
    assert model.arithmetic == "torch.float32"
    assert fast.arithmetic == "torch.float32, prompts in fp8"
    _, _, card = both_ways(model, lambda model: generate(model, PROMPTS, max_new_tokens=2))
    assert card._fp8_prompts is None
    found = generate(fast, PROMPTS, max_new_tokens=5, batch_size=8)
    assert card._fp8_prompts is not None
    assert all(len(g.token_ids) == 5 for g in found)


@pytest.mark.parametrize("device", DEVICES)
def test_a_larger_batch_may_follow_a_smaller_one(tmp_path, both_ways, device):
    model = _model(tmp_path, "llama", device)

    def tokens(model):
        one = generate(model, PROMPTS[:1], max_new_tokens=6, batch_size=8)
        all_rows = generate(model, PROMPTS, max_new_tokens=6, batch_size=8)
        long = generate(model, PROMPTS, max_new_tokens=270, batch_size=8)
        return [g.token_ids for g in (*one, *all_rows, *long)]

    plain, card, _ = both_ways(model, tokens)
    assert card == plain
