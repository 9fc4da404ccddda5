"""Checkpoints of random weights, small enough to make in a test: folders and GGUF files."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = 320
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def make_config(family: str, **changes) -> transformers.PretrainedConfig:
    """The configuration of a tiny model: every family with what sets it apart."""
    values = (
        COMMON
        | {
            "llama": {"rope_parameters": LLAMA3_ROPE, "tie_word_embeddings": False},
            "mistral": {"sliding_window": None, "tie_word_embeddings": False},
            "qwen2": {"tie_word_embeddings": True},
            "qwen3": {"head_dim": 32, "tie_word_embeddings": False},
        }[family]
    )
    return transformers.AutoConfig.for_model(family, **(values | changes))


def make_transformers_model(family: str, **changes) -> transformers.PreTrainedModel:
    """A model of random weights, those of norms and biases too."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(make_config(family, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if is_norm else 0.0))
    return model.eval()


def make_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer of about 300 tokens, split as SmolLM's."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        show_progress=False,
        special_tokens=CONTROL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    backend.train_from_iterator(["the patient has pain, think step by step </think>"], trainer)
    return backend


def write_folder(folder: Path, family: str, *, max_shard_size: str = "5GB", **changes) -> Path:
    """A Hugging Face folder with safetensors and a tokenizer."""
    model = make_transformers_model(family, **changes)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    (folder / "tokenizer.json").write_text(make_tokenizer().to_str(), encoding="utf-8")
    config = {"bos_token": CONTROL[0], "eos_token": CONTROL[2], "pad_token": CONTROL[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def permuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows as llama.cpp's converter orders them for Llama."""
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


GGUF_PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    top = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in top:
        return top[name]
    layer, part = name.removeprefix("model.layers.").split(".", 1)
    module, kind = part.rsplit(".", 1)
    return f"blk.{layer}.{GGUF_PARTS[module]}.{kind}"


def write_gguf(
    path: Path,
    model: transformers.PreTrainedModel,
    *,
    type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    rope_factors: list[float] | None = None,
    with_tokenizer: bool = True,
) -> Path:
    """A GGUF file as llama.cpp's converter would write it; 1-D tensors stay float32."""
    config = model.config
    kind = "llama" if config.model_type in ("llama", "mistral") else config.model_type
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if with_tokenizer:
        _add_tokenizer(writer)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(rope_factors, dtype=np.float32))
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if kind == "llama" and "q_proj" in name:
            values = permuted(values, config.num_attention_heads)
        if kind == "llama" and "k_proj" in name:
            values = permuted(values, config.num_key_value_heads)
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), values)
        else:
            stored = gguf.quants.quantize(values, type)
            writer.add_tensor(gguf_name(name), stored, raw_dtype=type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    definition = json.loads(make_tokenizer().to_str())
    vocab = definition["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = definition["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in CONTROL else 1 for token in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
