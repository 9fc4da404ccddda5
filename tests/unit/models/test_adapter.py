"""Adapter files: exchanged with peft, and nothing damaged gets in (pains 8 and 16)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from medimind.config import ModelConfig
from medimind.errors import AdapterError, CheckpointError
from medimind.models.adapter import adapter_norm, check_adapter, load_adapter, save_adapter
from medimind.models.load import load_model
from medimind.models.lora import adapter_disabled, attach_lora, lora_parameters

# peft asks transformers for an attribute that transformers calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

IDS = torch.tensor([5, 17, 240, 3, 99, 41, 7])
A_NAME = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


def logits(decoder):
    length = len(IDS)
    with torch.no_grad():
        hidden_TD = decoder(IDS, torch.arange(length), cu_seqlens=[0, length], max_seqlen=length)
        return decoder.logits(hidden_TD)


def fresh(folder):
    return load_model(ModelConfig(path=str(folder), quantization="none", device="cpu")).decoder


def randomize(parameters, *, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def adapted(folder, *, rank=4, alpha=6.0, seed=3, **options):
    decoder = fresh(folder)
    attach_lora(decoder, rank=rank, alpha=alpha, seed=1, **options)
    randomize(lora_parameters(decoder).values(), seed=seed)
    return decoder


@pytest.fixture
def saved(tmp_path, tiny_folder) -> Path:
    folder = tmp_path / "adapter"
    save_adapter(folder, adapted(tiny_folder), base_model_name="tiny", base_sha256="a" * 64)
    return folder


OPTIONS = {
    "all": {},
    "some": {"targets": ("q_proj", "v_proj"), "rank": 3},
    "rslora": {"rslora": True, "alpha": 2.5},
    "dropout": {"dropout": 0.25},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_peft_loads_our_adapter_with_the_same_logits(tmp_path, tiny_folder, name):
    decoder = adapted(tiny_folder, **OPTIONS[name])
    save_adapter(tmp_path / "a", decoder, base_model_name=str(tiny_folder))
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "a").eval()
    with torch.no_grad():
        expected = theirs(IDS[None]).logits[0]
    difference = (logits(decoder) - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-5
    with adapter_disabled(decoder):
        assert (logits(decoder) - expected).abs().max() > 0.1


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "r": 5, "lora_alpha": 7},
        {"target_modules": "all-linear", "r": 4, "use_rslora": True},
        {"target_modules": r".*\.mlp\.(up|down)_proj", "r": 4, "lora_dropout": 0.1},
        {"target_modules": ["self_attn.q_proj"], "r": 2, "init_lora_weights": "gaussian"},
    ],
    ids=["list", "all-linear", "pattern", "dotted"],
)
def test_we_load_pefts_adapter_with_the_same_logits(tmp_path, tiny_folder, config):
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    theirs = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    randomize(p for name, p in theirs.named_parameters() if "lora_" in name)
    theirs.save_pretrained(tmp_path / "a")
    with torch.no_grad():
        expected = theirs(IDS[None]).logits[0]
    decoder = fresh(tiny_folder)
    spec = load_adapter(tmp_path / "a", decoder, base_model_name=str(tiny_folder))
    difference = (logits(decoder) - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-5
    assert spec.rank == config["r"]
    check_adapter(tmp_path / "a")


def test_a_saved_adapter_comes_back_bit_for_bit(saved, tiny_folder):
    before, after = adapted(tiny_folder), fresh(tiny_folder)
    spec = load_adapter(saved, after, base_sha256="a" * 64)
    assert spec == before.lora
    for name, parameter in lora_parameters(before).items():
        assert torch.equal(lora_parameters(after)[name], parameter)
    assert torch.equal(logits(before), logits(after))
    again = adapted(tiny_folder, seed=9)
    load_adapter(saved, again)
    assert torch.equal(logits(before), logits(again))


def test_the_norm_is_that_of_the_full_updates(tiny_folder):
    decoder = adapted(tiny_folder, alpha=3.0)
    total = sum(
        ((p.lora_b.double() @ p.lora_a.double()) * p.scaling).square().sum()
        for _, p in decoder.projections()
    )
    assert adapter_norm(decoder) == pytest.approx(total.sqrt().item(), rel=1e-9)


def test_an_adapter_without_effect_is_noticed(tmp_path, tiny_folder, caplog):
    decoder = fresh(tiny_folder)
    attach_lora(decoder, rank=4, alpha=4, seed=1)
    assert adapter_norm(decoder) == 0
    save_adapter(tmp_path / "a", decoder, base_model_name="tiny")
    load_adapter(tmp_path / "a", fresh(tiny_folder))
    assert "changes nothing" in caplog.text


def test_an_adapter_of_nan_is_neither_saved_nor_loaded(tmp_path, tiny_folder, saved):
    decoder = adapted(tiny_folder)
    with torch.no_grad():
        for parameter in lora_parameters(decoder).values():
            parameter.fill_(float("nan"))
    with pytest.raises(AdapterError, match="28 of 28 tensors hold NaN"):
        save_adapter(tmp_path / "nan", decoder, base_model_name="tiny")
    assert not (tmp_path / "nan").exists()
    change(saved, lambda tensors: tensors[A_NAME].fill_(float("nan")))
    decoder = fresh(tiny_folder)
    with pytest.raises(AdapterError, match=f"1 of 28 tensors hold NaN.*{A_NAME}"):
        load_adapter(saved, decoder)
    assert decoder.lora is None


def test_one_flipped_bit_anywhere_is_an_error(saved, tiny_folder):
    decoder = fresh(tiny_folder)
    random = np.random.default_rng(0)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        content = (saved / name).read_bytes()
        for position in random.integers(0, len(content) * 8, 20):
            flipped = bytearray(content)
            flipped[position // 8] ^= 1 << (position % 8)
            (saved / name).write_bytes(bytes(flipped))
            with pytest.raises(AdapterError, match=f"{name} was changed"):
                load_adapter(saved, decoder)
        (saved / name).write_bytes(content)
    assert decoder.lora is None
    load_adapter(saved, decoder)


def change(folder, edit, *, config=None):
    """Change an adapter as someone would who writes no manifest."""
    (folder / "manifest.json").unlink(missing_ok=True)
    tensors = {n: t.clone() for n, t in load_file(folder / "adapter_model.safetensors").items()}
    result = edit(tensors)
    tensors = result if isinstance(result, dict) else tensors
    save_file(tensors, folder / "adapter_model.safetensors")
    if config:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))


def without(name):
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def with_tensor(name, tensor):
    return lambda tensors: {**tensors, name: tensor}


MISFITS = {
    "missing": (without(A_NAME), f"1 tensors are missing ({A_NAME})"),
    "spare": (
        with_tensor("base_model.model.lm_head.lora_A.weight", torch.zeros(4, 64)),
        "1 tensors have no place in this model (base_model.model.lm_head.lora_A.weight)",
    ),
    "shape": (with_tensor(A_NAME, torch.zeros(4, 65)), f"{A_NAME} is (4, 65), not (4, 64)"),
    "dtype": (
        with_tensor(A_NAME, torch.zeros(4, 64, dtype=torch.int64)),
        f"{A_NAME} is stored as I64",
    ),
    "empty": (lambda tensors: {"x": torch.zeros(1)}, "have no place in this model (x)"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_tensors_that_do_not_fit_are_listed(saved, tiny_folder, name):
    edit, message = MISFITS[name]
    change(saved, edit)
    decoder = fresh(tiny_folder)
    with pytest.raises(AdapterError) as caught:
        load_adapter(saved, decoder)
    assert message in str(caught.value)
    assert decoder.lora is None


REFUSED = {
    "kind": ({"peft_type": "IA3"}, "'IA3' is not supported"),
    "dora": ({"use_dora": True}, "DoRA"),
    "bias": ({"bias": "all"}, "trained biases"),
    "modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "ranks": ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    "pissa": ({"init_lora_weights": "pissa"}, "pissa"),
    "start": ({"init_lora_weights": [1]}, "init_lora_weights"),
    "rank 0": ({"r": 0}, "r is 0"),
    "rank a text": ({"r": "4"}, "r is '4'"),
    "rank true": ({"r": True}, "r is True"),
    "rank 2^40": ({"r": 1 << 40}, "not a whole number"),
    "alpha": ({"lora_alpha": None}, "lora_alpha is None"),
    "alpha huge": ({"lora_alpha": 10**400}, "too large"),
    "dropout": ({"lora_dropout": 1.5}, "lora_dropout is 1.5"),
    "targets": ({"target_modules": {"q": 1}}, "neither a list of names nor a pattern"),
    "other targets": ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
    "fewer targets": ({"target_modules": ["q_proj"]}, "have no place"),
    "other rank": ({"r": 8}, "not (8, 64)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_configurations_that_cannot_be_computed_are_refused(saved, tiny_folder, name):
    config, message = REFUSED[name]
    change(saved, lambda tensors: None, config=config)
    with pytest.raises(AdapterError) as caught:
        load_adapter(saved, fresh(tiny_folder))
    assert message in str(caught.value)


def test_a_pattern_from_a_file_is_never_matched(saved, tiny_folder):
    change(saved, lambda tensors: None, config={"target_modules": "(a+)+$" * 9 + "b"})
    load_adapter(saved, fresh(tiny_folder))


def test_the_wrong_base_model_is_refused(saved, tiny_folder, caplog):
    with pytest.raises(AdapterError, match=r"trained on 'tiny' with weights aaaa.* has weights bb"):
        load_adapter(saved, fresh(tiny_folder), base_model_name="x", base_sha256="b" * 64)
    load_adapter(saved, fresh(tiny_folder), base_model_name="other")
    assert "names the base model 'tiny'" in caplog.text


def test_another_adapter_that_is_attached_stays(saved, tiny_folder):
    decoder = adapted(tiny_folder, rank=8)
    with pytest.raises(AdapterError, match="another adapter is attached"):
        load_adapter(saved, decoder)


def test_missing_and_pickled_files_are_told(tmp_path, tiny_folder, saved):
    decoder = fresh(tiny_folder)
    with pytest.raises(AdapterError, match="no such adapter folder"):
        load_adapter(tmp_path / "none", decoder)
    (saved / "manifest.json").unlink()
    (saved / "adapter_model.safetensors").rename(saved / "adapter_model.bin")
    with pytest.raises(AdapterError, match="pickled"):
        load_adapter(saved, decoder)
    shutil.rmtree(saved)
    saved.mkdir()
    with pytest.raises(AdapterError, match="cannot open"):
        load_adapter(saved, decoder)
    with pytest.raises(AdapterError, match="no adapter is attached"):
        save_adapter(tmp_path / "b", decoder, base_model_name="tiny")


def test_a_file_that_the_library_refuses_is_an_adapter_error(saved, tiny_folder, monkeypatch):
    def refuse(*args):
        raise CheckpointError("cannot be read", where="x")

    monkeypatch.setattr("medimind.models.adapter.read_tensor", refuse)
    with pytest.raises(AdapterError, match="cannot be read"):
        load_adapter(saved, fresh(tiny_folder))


def test_a_save_that_is_interrupted_leaves_the_old_adapter(saved, tiny_folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medimind.models.adapter.save_file", fail)
    with pytest.raises(AdapterError, match="No space left"):
        save_adapter(saved, adapted(tiny_folder, seed=8), base_model_name="tiny")
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]
