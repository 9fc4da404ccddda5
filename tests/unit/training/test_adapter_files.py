from __future__ import annotations

import torch
from tiny_training import make_model, run

from medimind.models.adapter import load_adapter
from medimind.models.decoder import Decoder
from medimind.models.lora import lora_parameters


def test_published_adapter_loads_into_a_base_model(uninterrupted):
    folder, _ = uninterrupted
    base = Decoder(make_model().decoder.architecture)
    load_adapter(folder / "adapter", base, base_sha256="5" * 64)
    trained = make_model()
    assert run(folder, model=trained).already_finished
    loaded = lora_parameters(base)
    for name, parameter in lora_parameters(trained.decoder).items():
        assert torch.equal(loaded[name], parameter)
