from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from medimind.config import ModelConfig
from medimind.models.load import Model, load_model
from tiny_checkpoints import write_folder


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
    """The built-in model as transformers reads it; takes over ten seconds."""
    return AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    )
