"""Exported models: transformers loads them with the same logits and tokens (pains 2 and 7)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from medimind.config import ModelConfig
from medimind.errors import AdapterError, ExportError
from medimind.export import export_adapter, export_merged
from medimind.models.adapter import load_adapter, save_adapter
from medimind.models.load import load_model
from medimind.models.lora import adapter_disabled, attach_lora, lora_parameters
from tiny_checkpoints import make_transformers_model, write_folder, write_gguf

IDS = torch.tensor([5, 17, 240, 3, 99, 41, 7])


def load(path, *, quantization="none", adapter=True, dtype="auto"):
    model = load_model(
        ModelConfig(path=str(path), quantization=quantization, device="cpu", dtype=dtype)
    )
    if adapter:
        attach_lora(model.decoder, rank=4, alpha=8, seed=1)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in lora_parameters(model.decoder).values():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def logits(model):
    length = len(IDS)
    with torch.no_grad():
        hidden_TD = model.decoder(
            IDS, torch.arange(length), cu_seqlens=[0, length], max_seqlen=length
        )
        return model.decoder.logits(hidden_TD)


def their_logits(folder, **options):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    with torch.no_grad():
        return model(IDS[None]).logits[0]


def difference(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_transformers_gives_the_merged_model_the_same_logits(tmp_path, family):
    model = load(write_folder(tmp_path / "base", family))
    (file,) = export_merged(model, tmp_path / "merged")
    assert file == tmp_path / "merged" / "model.safetensors"
    assert difference(their_logits(tmp_path / "merged"), logits(model)) <= 1e-5
    with adapter_disabled(model.decoder):
        assert difference(logits(model), their_logits(tmp_path / "merged")) > 0.01
    again = load(tmp_path / "merged", adapter=False)
    assert difference(logits(again), logits(model)) <= 1e-5
    assert again.eos_ids == model.eos_ids


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_gguf_base_gets_a_configuration_of_its_own(tmp_path, family):
    reference = make_transformers_model(family)
    factors = None
    if family == "llama":
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](reference.config, "cpu")
        factors = (500000.0 ** -(torch.arange(0, 16, 2).float() / 16) / scaled).tolist()
    base = write_gguf(tmp_path / "base.gguf", reference, rope_factors=factors)
    model = load(base)
    export_merged(model, tmp_path / "merged")
    assert difference(their_logits(tmp_path / "merged"), logits(model)) <= 1e-5
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["architectures"] == [type(reference).__name__]
    assert config["eos_token_id"] == 2


def test_factors_without_a_name_are_an_export_error(tmp_path):
    base = write_gguf(
        tmp_path / "base.gguf", make_transformers_model("llama"), rope_factors=[1.5] * 8
    )
    with pytest.raises(ExportError, match="have no name"):
        export_merged(load(base), tmp_path / "merged")


def test_the_adapter_is_merged_into_what_it_was_trained_against(tmp_path):
    """Pain 7: with an NF4 base the merged model is the trained one, not a similar one."""
    base = write_folder(tmp_path / "base", "llama")
    model = load(base, quantization="nf4")
    trained = logits(model)
    export_merged(model, tmp_path / "trained")
    export_merged(model, tmp_path / "original", base="original")
    assert difference(their_logits(tmp_path / "trained"), trained) <= 1e-5
    assert difference(their_logits(tmp_path / "original"), trained) > 1e-3
    full = logits(load(base))
    assert difference(their_logits(tmp_path / "original"), full) <= 1e-5


@pytest.mark.parametrize("base", ["trained", "original"])
def test_without_an_adapter_the_base_is_written(tmp_path, base, caplog):
    model = load(write_folder(tmp_path / "base", "qwen2"), adapter=False)
    export_merged(model, tmp_path / "out", base=base)
    assert "no adapter is attached" in caplog.text
    assert difference(their_logits(tmp_path / "out"), logits(model)) <= 1e-5


def test_large_models_are_sharded(tmp_path):
    model = load(write_folder(tmp_path / "base", "llama"))
    files = export_merged(model, tmp_path / "merged", max_shard_bytes=100_000)
    assert len(files) > 2
    assert all(file.is_file() for file in files)
    assert difference(their_logits(tmp_path / "merged"), logits(model)) <= 1e-5
    assert torch.equal(
        logits(load(tmp_path / "merged", adapter=False)),
        logits(_merged_whole(model, tmp_path / "whole")),
    )


def _merged_whole(model, folder):
    export_merged(model, folder)
    return load(folder, adapter=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_round_once(tmp_path, dtype):
    model = load(write_folder(tmp_path / "base", "llama"))
    export_merged(model, tmp_path / "merged", dtype=dtype)
    projections = dict(model.decoder.projections())
    again = load(tmp_path / "merged", adapter=False)
    for name, projection in again.decoder.projections():
        assert torch.equal(projection.dense(), projections[name].merged().to(dtype).float())
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert loaded.dtype == dtype


def test_the_tokenizer_travels_along(tmp_path):
    model = load(write_folder(tmp_path / "base", "llama"))
    export_merged(model, tmp_path / "merged")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "merged")
    text = "<|im_start|>the patient has pain 38.5, 患者 🩺<|im_end|>"
    assert theirs.encode(text, add_special_tokens=False) == model.tokenizer.encode(text)
    generation = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["bos_token_id"]) == (2, 0)
    several = dataclasses.replace(model, eos_ids=(2, 7))
    export_merged(several, tmp_path / "merged")
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["eos_token_id"] == [2, 7]
    assert load(tmp_path / "merged", adapter=False).eos_ids == (2, 7)


def test_transformers_generates_our_tokens_from_the_export(tmp_path):
    from medimind.models.generate import generate

    model = load(write_folder(tmp_path / "base", "qwen3"))
    export_merged(model, tmp_path / "merged")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    out = theirs.generate(
        IDS[None], attention_mask=torch.ones(1, len(IDS)), max_new_tokens=16, do_sample=False
    )
    (ours,) = generate(model, [IDS.tolist()], max_new_tokens=16)
    assert list(ours.token_ids) == out[0, len(IDS) :].tolist()


def test_values_that_do_not_fit_stop_the_export_and_leave_nothing(tmp_path):
    model = load(write_folder(tmp_path / "base", "llama"))
    with torch.no_grad():
        next(iter(lora_parameters(model.decoder).values())).fill_(1e6)
    with pytest.raises(ExportError, match=r"q_proj.weight' holds NaN or infinity in float16"):
        export_merged(model, tmp_path / "merged", dtype=torch.float16)
    assert not (tmp_path / "merged").exists()


def test_the_base_is_never_overwritten(tmp_path):
    model = load(write_folder(tmp_path / "base", "llama"))
    with pytest.raises(ExportError, match="folder of the base model"):
        export_merged(model, tmp_path / "base" / ".." / "base")


@pytest.fixture
def adapter(tmp_path) -> Path:
    model = load(write_folder(tmp_path / "base", "llama"))
    save_adapter(
        tmp_path / "adapter", model.decoder, base_model_name="tiny", base_sha256=model.sha256
    )
    return tmp_path / "adapter"


def test_an_adapter_is_copied_bit_for_bit(adapter, tmp_path):
    files = export_adapter(adapter, tmp_path / "copy")
    assert [file.name for file in files] == [file.name for file in sorted(adapter.iterdir())]
    for file in files:
        assert file.read_bytes() == (adapter / file.name).read_bytes()
    model = load(tmp_path / "base", adapter=False)
    load_adapter(tmp_path / "copy", model.decoder, base_sha256=model.sha256)


def test_a_damaged_adapter_is_not_copied(adapter, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="the same folder"):
        export_adapter(adapter, tmp_path / "adapter")
    monkeypatch.setattr("medimind.export.adapter_copy.hash_file", lambda file: str(file))
    with pytest.raises(ExportError, match="the copy differs"):
        export_adapter(adapter, tmp_path / "copy")
    weights = adapter / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(AdapterError, match="was changed"):
        export_adapter(adapter, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
