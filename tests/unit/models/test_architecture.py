from __future__ import annotations

import math

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from medimind.errors import CheckpointError
from medimind.models.architecture import Architecture
from medimind.models.rope import RopeScaling, inverse_frequencies, rotary_tables
from tiny_checkpoints import LLAMA3_ROPE, make_config

CONFIG = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
}
METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.vocab_size": 320,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


def from_gguf(metadata=METADATA, *, tensor_names=(), **more):
    return Architecture.from_gguf(metadata, tensor_names=tensor_names, where="m.gguf", **more)


def test_both_ways_of_writing_rope_are_read():
    flat = CONFIG | {"rope_theta": 5e5, "rope_scaling": dict(LLAMA3_ROPE)}
    nested = CONFIG | {"rope_parameters": dict(LLAMA3_ROPE)}
    one, other = (Architecture.from_config_json(config) for config in (flat, nested))
    assert one == other
    assert one.rope_theta == 5e5
    assert one.rope_scaling == RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_written_configuration_is_read_back_and_by_transformers(family):
    config = make_config(family)
    ours = Architecture.from_config_json(config.to_dict())
    assert Architecture.from_config_json(ours.to_config_json()) == ours
    theirs = type(config).from_dict(ours.to_config_json())
    for key in ("hidden_size", "num_key_value_heads", "rms_norm_eps", "model_type"):
        assert getattr(theirs, key) == getattr(config, key)
    assert theirs.rope_parameters["rope_theta"] == config.rope_parameters["rope_theta"]


def test_the_number_of_parameters_is_transformers():
    for family, changes in (
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", {}),
        ("qwen3", {}),
    ):
        model = transformers.AutoModelForCausalLM.from_config(make_config(family, **changes))
        ours = Architecture.from_config_json(model.config.to_dict())
        assert ours.num_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        RopeScaling("linear", factor=4.0),
        RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
        RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
    ],
)
def test_frequencies_are_transformers(scaling):
    ours = inverse_frequencies(128, theta=5e5, scaling=scaling)
    parameters = {"rope_type": "default", "rope_theta": 5e5}
    if scaling is not None:
        parameters = {"rope_type": scaling.kind, "rope_theta": 5e5, "factor": scaling.factor}
    if scaling is not None and scaling.kind == "llama3":
        parameters = LLAMA3_ROPE | {"factor": scaling.factor}
    config = transformers.LlamaConfig(
        head_dim=128, max_position_embeddings=131_072, rope_parameters=parameters
    )
    if scaling is None:
        theirs = 1.0 / 5e5 ** (torch.arange(0, 128, 2).float() / 128)
    else:
        theirs, _ = ROPE_INIT_FUNCTIONS[scaling.kind](config, torch.device("cpu"))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_factors_divide_frequencies():
    plain = inverse_frequencies(8, theta=1e4, scaling=None)
    scaled = inverse_frequencies(8, theta=1e4, scaling=RopeScaling("factors", factors=(1, 2, 4, 8)))
    torch.testing.assert_close(scaled * torch.tensor([1.0, 2, 4, 8]), plain)


def test_tables_are_right_far_out():
    frequency = inverse_frequencies(8, theta=1e4, scaling=None)
    cos_TK, sin_TK = rotary_tables(torch.tensor([0, 3]), frequency, dtype=torch.float32)
    assert cos_TK.shape == (2, 8)
    assert cos_TK[0].tolist() == [1.0] * 8
    assert sin_TK[1, 1].item() == pytest.approx(math.sin(3 * 0.1), rel=1e-6)
    assert torch.equal(sin_TK[:, :4], sin_TK[:, 4:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is not supported"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"quantization_config": {"load_in_4bit": True}}, "already quantised"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": True}, "positive whole number"),
        ({"num_hidden_layers": 0}, "positive whole number"),
        ({"vocab_size": "many"}, "positive whole number"),
        ({"vocab_size": 1 << 40}, "positive whole number"),
        ({"rms_norm_eps": float("inf")}, "positive number"),
        ({"rms_norm_eps": -1}, "positive number"),
        ({"num_key_value_heads": 3}, "cannot share"),
        ({"head_dim": 15}, "odd"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling 'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "'low_freq_factor' is missing"),
        ({"rope_scaling": [1]}, "should be an object"),
    ],
)
def test_bad_configurations_are_told(changes, message):
    config = {k: v for k, v in (CONFIG | changes).items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        Architecture.from_config_json(config, where="config.json")


def test_a_configuration_is_an_object():
    with pytest.raises(CheckpointError, match="should hold an object"):
        Architecture.from_config_json(["llama"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "changes", "window"),
    [
        ("mistral", {"sliding_window": 4096}, 4096),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": False}, None),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": True}, 4096),
        ("llama", {"sliding_window": 4096}, None),
    ],
)
def test_windows_count_where_the_family_uses_them(family, changes, window):
    architecture = Architecture.from_config_json(CONFIG | {"model_type": family} | changes)
    assert architecture.sliding_window == window
    assert architecture.to_config_json().get("sliding_window") == window


def test_tensor_names_tell_heads_and_biases():
    plain = from_gguf()
    assert plain.tied_head
    assert not plain.qkv_bias
    assert (plain.bos_id, plain.eos_ids) == (1, (2,))
    names = ["output.weight", "blk.0.attn_q.bias", "blk.0.attn_output.bias", "blk.0.ffn_up.bias"]
    full = from_gguf(tensor_names=names)
    assert not full.tied_head
    assert full.qkv_bias
    assert full.output_bias
    assert full.mlp_bias


def test_the_vocabulary_may_come_from_the_tokens():
    metadata = {k: v for k, v in METADATA.items() if k != "llama.vocab_size"}
    assert from_gguf(metadata | {"tokenizer.ggml.tokens": ["a"] * 7}).vocab_size == 7
    with pytest.raises(CheckpointError, match="'vocab_size' is missing"):
        from_gguf(metadata)


def test_scaling_of_gguf_files():
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    assert from_gguf(METADATA | linear).rope_scaling == RopeScaling("linear", factor=2.0)
    assert from_gguf(METADATA | {"llama.rope.scaling.type": "none"}).rope_scaling is None
    by_factors = from_gguf(rope_factors=[1.0] * 8)
    assert by_factors.rope_scaling == RopeScaling("factors", factors=(1.0,) * 8)
    with pytest.raises(CheckpointError, match=r"no config\.json form"):
        by_factors.to_config_json()
    scaled = from_gguf(METADATA | linear).to_config_json()
    assert scaled["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"general.architecture": "gemma3"}, {}, "'gemma3' is not supported"),
        ({"general.architecture": None}, {}, "None is not supported"),
        ({"llama.expert_count": 8}, {}, "mixtures of experts"),
        ({"llama.block_count": "two"}, {}, "positive whole number"),
        ({"llama.rope.scaling.type": "yarn"}, {}, "rope scaling 'yarn'"),
        ({}, {"rope_factors": [1.0]}, "1 rope factors for 8"),
    ],
)
def test_bad_metadata_is_told(changes, more, message):
    with pytest.raises(CheckpointError, match=message):
        from_gguf(METADATA | changes, **more)
