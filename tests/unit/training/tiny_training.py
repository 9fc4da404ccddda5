"""A tiny model and tiny cases to train it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from medimind.config import TrainConfig
from medimind.models.architecture import Architecture
from medimind.models.decoder import Decoder
from medimind.models.lora import attach_lora
from medimind.prompts.prompt import Prompt
from medimind.training.run import TrainResult, train

VOCABULARY = 64


@dataclass
class TinyModel:
    """What training needs of ``models.load.Model``."""

    decoder: Decoder
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    name: str = "tiny"
    revision: str | None = None
    sha256: str = "5" * 64


class Recorder:
    """A tracker that remembers."""

    def __init__(self, on_log: Callable[[int], None] = lambda step: None):
        self.rows: list[dict] = []
        self._on_log = on_log

    def log(self, metrics, *, step):
        self.rows.append({"step": step, **metrics})
        self._on_log(step)

    def log_table(self, name, *, columns, rows): ...

    def finish(self, summary): ...


def make_model(
    *, dropout: float = 0.0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> TinyModel:
    architecture = Architecture.from_config_json(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
        }
    )
    decoder = Decoder(architecture, dtype=dtype, device=device)
    generator = torch.Generator().manual_seed(0)
    for name, shape in decoder.tensor_shapes().items():
        values = torch.randn(shape, generator=generator) * 0.2
        decoder.load_tensor(name, values.abs() + 0.5 if "norm" in name else values)
    attach_lora(decoder.eval(), rank=4, alpha=8, dropout=dropout, seed=1)
    return TinyModel(decoder, dtype=dtype, device=torch.device(device))


def make_prompts(count: int = 12, *, seed: int = 0, longest: int = 24) -> list[Prompt]:
    random = np.random.default_rng(seed)
    prompts = []
    for index in range(count):
        length = int(random.integers(6, longest))
        ids = random.integers(3, VOCABULARY, length).astype(np.int32)
        is_target = np.arange(length) >= length // 3
        prompts.append(
            Prompt(f"case-{index}", ids, is_target, length // 3, 2, int(is_target.sum()) - 2)
        )
    return prompts


def make_config(**changes) -> TrainConfig:
    values = {
        "steps": 8,
        "batch_size": 4,
        "max_length": 32,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "checkpoint_every": 3,
        "threads": 1,
    }
    return TrainConfig.model_validate(values | changes)


def run(folder, *, config=None, model=None, tracker=None, resume=False, **options) -> TrainResult:
    options.setdefault("train", make_prompts())
    options.setdefault("fingerprint", "f" * 64)
    return train(
        config or make_config(),
        model=model or make_model(),  # type: ignore[arg-type]
        tracker=tracker or Recorder(),
        folder=folder,
        resume=resume,
        **options,
    )


def adapter_bytes(folder) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()
