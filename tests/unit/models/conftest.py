from __future__ import annotations

import gguf
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from medimind.config import ModelConfig
from medimind.models.load import Model, load_model
from tiny_checkpoints import gguf_name, write_folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny Llama with untied head, as a Hugging Face folder."""
    return write_folder(tmp_path_factory.mktemp("tiny") / "llama", "llama")


@pytest.fixture
def tiny(tiny_folder) -> Model:
    """The same, loaded in float32 without quantisation."""
    torch.manual_seed(0)
    return load_model(ModelConfig(path=str(tiny_folder), quantization="none", device="cpu"))


@pytest.fixture(scope="session")
def smollm2_reference(smollm2_gguf):
    """The built-in model in transformers, its values read by the gguf package.

    transformers reads GGUF files itself, but takes half a minute for it.
    """
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2_gguf).tensors}
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    weights = {}
    for name, parameter in model.named_parameters():
        tensor = stored[gguf_name(name)]
        row = tensor.data.reshape(1, -1)
        values = gguf.quants.dequantize(row, tensor.tensor_type).reshape(parameter.shape)
        for projection, num_heads in (("q_proj", 9), ("k_proj", 3)):
            if projection in name:
                values = values.reshape(num_heads, 32, 2, 576).swapaxes(1, 2).reshape(-1, 576)
        weights[name] = torch.from_numpy(values.copy())
    return LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights).eval()
