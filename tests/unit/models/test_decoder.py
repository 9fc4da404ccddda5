from __future__ import annotations

from dataclasses import replace

import peft
import pytest
import torch

from medimind.errors import AdapterError, CheckpointError
from medimind.kernels.nf4 import dequantize_nf4, quantize_nf4
from medimind.models.architecture import PROJECTIONS, Architecture
from medimind.models.cache import KvCache
from medimind.models.decoder import Decoder
from medimind.models.lora import LoraSpec, attach_lora, lora_parameters
from tiny_checkpoints import make_transformers_model

TINY = Architecture(
    family="llama",
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    qkv_bias=True,
)


@pytest.fixture
def decoder() -> Decoder:
    return fill(Decoder(TINY))


def fill(decoder: Decoder) -> Decoder:
    generator = torch.Generator().manual_seed(0)
    for name, shape in decoder.tensor_shapes().items():
        decoder.load_tensor(name, torch.randn(shape, generator=generator) * 0.3)
    return decoder


def make_cache(lengths, *, capacity) -> KvCache:
    return KvCache(
        2,
        lengths=lengths,
        num_kv_heads=2,
        head_dim=8,
        capacity=capacity,
        dtype=torch.float32,
        device="cpu",
    )


def hidden(decoder, lengths, *, seed=0, cache=None):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 50, (sum(lengths),), generator=generator)
    positions = torch.cat([torch.arange(n) for n in lengths])
    offsets = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    states = decoder(tokens, positions, cu_seqlens=offsets, max_seqlen=max(lengths), cache=cache)
    return tokens, states


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_names_and_logits_are_transformers(family):
    model = make_transformers_model(family)
    decoder = Decoder(Architecture.from_config_json(model.config.to_dict()))
    for name, parameter in model.named_parameters():
        decoder.load_tensor(name, parameter)
    assert decoder.tensor_shapes() == {n: tuple(p.shape) for n, p in model.named_parameters()}
    tokens = torch.arange(100) * 7 % 320
    with torch.no_grad():
        ours = decoder.logits(
            decoder(tokens, torch.arange(100), cu_seqlens=[0, 100], max_seqlen=100)
        )
        theirs = model(input_ids=tokens[None]).logits[0]
    assert (ours - theirs).norm() / theirs.norm() <= 1e-5


def test_packed_sequences_do_not_see_each_other(decoder):
    tokens, together = hidden(decoder, (9, 1, 20))
    start = 0
    for length in (9, 1, 20):
        alone = decoder(
            tokens[start : start + length],
            torch.arange(length),
            cu_seqlens=[0, length],
            max_seqlen=length,
        )
        torch.testing.assert_close(together[start : start + length], alone, rtol=1e-5, atol=1e-5)
        start += length


def test_generation_equals_the_full_pass(decoder):
    lengths = (5, 9)
    cache = KvCache(
        2,
        lengths=lengths,
        num_kv_heads=2,
        head_dim=8,
        capacity=16,
        dtype=torch.float32,
        device="cpu",
    )
    tokens, _ = hidden(decoder, lengths, cache=cache)
    new_BS = torch.tensor([[3, 4, 5], [6, 7, 8]])
    first = decoder.forward_cached(new_BS[:, :2], cache=cache)
    second = decoder.forward_cached(new_BS[:, 2:], cache=cache)
    ours = torch.cat((first, second), dim=1)
    for row, prompt in enumerate(tokens.split(list(lengths))):
        whole = torch.cat((prompt, new_BS[row]))
        n = len(whole)
        full = decoder(whole, torch.arange(n), cu_seqlens=[0, n], max_seqlen=n)
        torch.testing.assert_close(ours[row], full[-3:], rtol=1e-5, atol=1e-5)


def test_one_row_needs_no_mask(decoder):
    cache = make_cache([4], capacity=8)
    tokens, _ = hidden(decoder, (4,), cache=cache)
    ours = decoder.forward_cached(torch.tensor([[9]]), cache=cache)
    whole = torch.cat((tokens, torch.tensor([9])))
    full = decoder(whole, torch.arange(5), cu_seqlens=[0, 5], max_seqlen=5)
    torch.testing.assert_close(ours[0, 0], full[-1], rtol=1e-5, atol=1e-5)


def test_unknown_and_misshapen_tensors_are_refused(decoder):
    with pytest.raises(CheckpointError, match=r"'model.layers.9.norm' that this"):
        decoder.load_tensor("model.layers.9.norm", torch.zeros(3))
    with pytest.raises(CheckpointError, match=r"shape \(3,\), the architecture says \(32,\)"):
        decoder.load_tensor("model.norm.weight", torch.zeros(3))


def test_missing_tensors_are_listed():
    decoder = Decoder(TINY)
    assert decoder.missing_tensors() == sorted(decoder.tensor_shapes())
    decoder.load_tensor("lm_head.weight", torch.zeros(50, 32))
    assert "lm_head.weight" not in decoder.missing_tensors()


def test_neighbouring_weights_share_one_buffer(decoder):
    attention = decoder.layers[0].self_attn
    joined_OD, bias_O = attention.joined_qkv
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    assert torch.equal(joined_OD, torch.cat([p.dense() for p in parts]))
    assert torch.equal(bias_O, torch.cat([p.bias for p in parts]))


def test_a_window_refuses_longer_sequences():
    decoder = fill(Decoder(replace(TINY, sliding_window=8)))
    hidden(decoder, (8, 8))
    with pytest.raises(CheckpointError, match="9 tokens is longer"):
        hidden(decoder, (9,))
    cache = make_cache([8], capacity=9)
    hidden(decoder, (8,), cache=cache)
    with pytest.raises(CheckpointError, match="attention window"):
        decoder.forward_cached(torch.tensor([[1]]), cache=cache)


def test_nf4_on_a_cpu_is_dequantised_once(decoder):
    weight = decoder.layers[0].mlp.up_proj.dense().clone()
    decoder.quantize_nf4()
    expected = dequantize_nf4(quantize_nf4(weight), dtype=torch.float32)
    assert torch.equal(decoder.layers[0].mlp.up_proj.dense(), expected)


def test_a_packed_weight_is_used_and_merged_as_its_values(decoder):
    attach_lora(decoder, rank=2, alpha=4, seed=0)
    projection = decoder.layers[0].mlp.up_proj
    projection.lora_b.data.normal_(generator=torch.Generator().manual_seed(1))
    x_TD = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    packed = quantize_nf4(projection.dense().clone())
    projection.quantize_nf4(double_quantization=True)
    dense = projection.forward(x_TD)
    merged = projection.merged()
    projection.nf4, projection.weight = packed, None
    projection.quantize_nf4(double_quantization=True)
    torch.testing.assert_close(projection.forward(x_TD), dense, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(x_TD @ merged.t(), dense, rtol=1e-4, atol=1e-5)
    projection.adapter_enabled = False
    torch.testing.assert_close(projection.forward(x_TD), x_TD @ projection.dense().t())
    projection.nf4 = None
    with pytest.raises(AssertionError, match="no weight"):
        projection.dense()


def test_merging_without_an_adapter_is_the_base(decoder):
    projection = decoder.layers[0].mlp.up_proj
    assert torch.equal(projection.merged(), projection.dense())
    with pytest.raises(AssertionError, match="no adapter"):
        projection.adapter(dtype=torch.float32)


def test_adapters_start_as_pefts_do():
    """Uniform within 1 / sqrt(D) for A, zero for B; drawn from the seed alone."""
    model = make_transformers_model("llama", hidden_size=256, num_hidden_layers=1)
    decoder = Decoder(Architecture.from_config_json(model.config.to_dict()))
    attach_lora(decoder, rank=16, alpha=16, seed=5)
    config = peft.LoraConfig(r=16, target_modules=list(PROJECTIONS))
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        peer = peft.get_peft_model(model, config)
    theirs = {n.replace(".default", ""): p for n, p in peer.named_parameters() if p.requires_grad}
    ours = {name: p.detach() for name, p in lora_parameters(decoder).items()}
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        assert parameter.shape == theirs[name].shape
        assert parameter.dtype == torch.float32
        if "lora_B" in name:
            assert not parameter.any()
        else:
            bound = theirs[name].abs().max()
            assert parameter.abs().max() == pytest.approx(bound.item(), rel=0.02)
            assert parameter.std() == pytest.approx(theirs[name].std().item(), rel=0.1)
    again = Decoder(decoder.architecture)
    attach_lora(again, rank=16, alpha=16, seed=5)
    other = Decoder(decoder.architecture)
    attach_lora(other, rank=16, alpha=16, seed=6)
    name = next(iter(ours))
    assert torch.equal(lora_parameters(again)[name], ours[name])
    assert not torch.equal(lora_parameters(other)[name], ours[name])


def test_scaling():
    assert LoraSpec(rank=16, alpha=32).scaling == 2.0
    assert LoraSpec(rank=16, alpha=32, rslora=True).scaling == 8.0


def test_adapters_are_refused_where_they_make_no_sense(decoder):
    with pytest.raises(AdapterError, match="no projection is called lm_head"):
        attach_lora(decoder, rank=2, alpha=2, targets=["lm_head"], seed=0)
    with pytest.raises(AdapterError, match="no projection is named"):
        attach_lora(decoder, rank=2, alpha=2, targets=[], seed=0)
    attach_lora(decoder, rank=2, alpha=2, targets=["v_proj", "q_proj"], seed=0)
    assert decoder.lora.targets == ("q_proj", "v_proj")
    assert len(lora_parameters(decoder)) == 2 * 2 * 2
    with pytest.raises(AdapterError, match="already has an adapter"):
        attach_lora(decoder, rank=2, alpha=2, seed=0)


def test_the_base_is_frozen(decoder):
    attach_lora(decoder, rank=2, alpha=2, seed=0)
    trainable = {id(p) for p in decoder.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in lora_parameters(decoder).values()}
