"""Whole GGUF files: llama.cpp computes with them what transformers computes with the checkpoint."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

from medimind.errors import CheckpointError, ExportError
from medimind.export.gguf import (
    About,
    export_gguf,
    export_gguf_adapter,
    find_quantization,
    open_weights,
    read_license,
)
from medimind.export.gguf import write as writing
from medimind.export.gguf.mix import tensor_kind
from medimind.formats.gguf import read_gguf
from medimind.models.checkpoint import open_checkpoint
from tiny_checkpoints import make_tokenizer, write_folder

FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]
ABOUT = About(name="Tiny", license="apache-2.0", base_model="someone/tiny", languages=("en",))
IDS = [5, 17, 240, 3, 99, 41, 7, 120, 33]


def export(base, path, quantization="f32", **options):
    weights = open_weights(base)
    return export_gguf(weights, path, quantization=quantization, model=base, about=ABOUT, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_gives_transformers_logits(tmp_path, family):
    pytest.importorskip("xllamacpp", reason="the extra 'local' is not installed")
    from medimind.engines.llama_cpp import LlamaCppEngine

    base = write_folder(tmp_path / "base", family)
    export(base, tmp_path / "m.gguf")
    engine = LlamaCppEngine(tmp_path / "m.gguf", context=64)
    found = engine.next_logprobs(IDS, most=320)
    engine.close()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        expected = torch.log_softmax(model(torch.tensor([IDS])).logits[0, -1], dim=-1).numpy()
    ours = np.array([found[token_id] for token_id in range(320)])
    assert np.abs(ours - expected).max() <= 1e-3 * np.abs(expected).max()


def test_the_header_says_everything(tmp_path):
    base = write_folder(tmp_path / "base", "llama")
    file = export(base, tmp_path / "m.gguf", "q8_0")
    metadata = read_gguf(file.path).metadata
    assert metadata["general.name"] == "Tiny"
    assert metadata["general.license"] == "apache-2.0"
    assert metadata["general.base_model.0.repo_url"].endswith("/someone/tiny")
    assert metadata["llama.attention.key_length"] == metadata["llama.attention.value_length"] == 16
    assert metadata["llama.attention.head_count_kv"] == 2
    assert metadata["llama.rope.freq_base"] == 500000.0
    assert metadata["tokenizer.ggml.pre"] == "smollm"
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["general.size_label"]
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 320  # filled up to the rows of the embedding
    assert tokens[-1].startswith("[PAD")
    assert "rope_freqs.weight" in read_gguf(file.path).tensors


def test_other_readers_read_it(tmp_path):
    base = write_folder(tmp_path / "base", "qwen2")
    file = export(base, tmp_path / "m.gguf", "f16")
    theirs = {tensor.name: tensor for tensor in GGUFReader(file.path).tensors}
    ours = read_gguf(file.path)
    assert set(theirs) == set(ours.tensors)
    for name, tensor in theirs.items():
        assert np.array_equal(tensor.data.reshape(-1).view(np.uint8), ours.raw(name).reshape(-1))
    assert "output.weight" not in theirs  # the head is the embedding


def test_rows_that_are_no_whole_superblocks_fall_back_as_llama_cpps_do(tmp_path):
    base = write_folder(tmp_path / "base", "llama", hidden_size=96, num_attention_heads=6)
    file = export(base, tmp_path / "m.gguf", "q4_k_m")
    kinds = {name: tensor.type.name for name, tensor in read_gguf(file.path).tensors.items()}
    assert kinds["blk.0.attn_k.weight"] == "Q5_0"
    assert kinds["blk.0.attn_v.weight"] == "Q5_0"
    assert kinds["blk.1.ffn_down.weight"] in ("Q5_0", "Q8_0")
    assert kinds["output.weight"] == "Q8_0"
    assert kinds["output_norm.weight"] == "F32"
    assert file.kinds == {kind: list(kinds.values()).count(kind) for kind in set(kinds.values())}


def test_the_mix_of_an_8b_is_llama_cpps(tmp_path):
    """Counted in the Q4_K_M file that llama.cpp makes of 32 layers: 16 + 16 + head in Q6_K."""
    base = write_folder(tmp_path / "base", "llama", num_hidden_layers=32, hidden_size=64)
    architecture = open_checkpoint(base).architecture
    mix = find_quantization("Q4-K-M")
    kinds = [
        tensor_kind(f"blk.{layer}.{part}.weight", (512, 512), quantization=mix,
                    architecture=architecture).name
        for layer in range(32)
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")
    ]  # fmt: skip
    assert (kinds.count("Q6_K"), kinds.count("Q4_K")) == (32, 160)


def test_an_unknown_way_to_cut_text_is_refused_with_the_known_ones(tmp_path):
    base = write_folder(tmp_path / "base", "llama")
    definition = json.loads(make_tokenizer().to_str())
    definition["pre_tokenizer"] = {"type": "Whitespace"}
    (base / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(ExportError, match="rules that are not known") as caught:
        export(base, tmp_path / "m.gguf")
    assert "llama-bpe" in str(caught.value)
    assert not list(tmp_path.glob("*m.gguf*"))


def test_an_unknown_quantisation_is_refused_with_the_known_ones():
    with pytest.raises(ExportError, match="q4_k_m"):
        find_quantization("q3_k_xl")


def test_nothing_is_left_of_a_file_that_failed(tmp_path, monkeypatch):
    base = write_folder(tmp_path / "base", "llama")

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "_write_data", full)
    with pytest.raises(ExportError, match="No space left"):
        export(base, tmp_path / "out" / "m.gguf")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_told_before_hours_of_work(tmp_path, monkeypatch):
    base = write_folder(tmp_path / "base", "llama")
    usage = os.statvfs(tmp_path)
    monkeypatch.setattr(
        writing.shutil, "disk_usage", lambda _: type("Usage", (), {"free": usage.f_bsize})()
    )
    with pytest.raises(ExportError, match="are free"):
        export(base, tmp_path / "m.gguf")


def test_weights_that_are_not_finite_are_named(tmp_path):
    base = write_folder(tmp_path / "base", "llama")
    file = base / "model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises((ExportError, CheckpointError), match=r"up_proj|ffn_up"):
        export(base, tmp_path / "m.gguf", "q8_0")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_an_adapter_file_holds_both_halves_of_every_update(tmp_path):
    from peft import LoraConfig, get_peft_model

    base = write_folder(tmp_path / "base", "llama")
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "down_proj"])
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    architecture = open_checkpoint(base).architecture
    file = export_gguf_adapter(
        tmp_path / "adapter", tmp_path / "a.gguf", architecture=architecture, about=ABOUT
    )
    found = read_gguf(file.path)
    assert found.metadata["general.type"] == "adapter"
    assert found.metadata["adapter.lora.alpha"] == pytest.approx(8 * 4**0.5)
    assert set(found.tensors) == {
        f"blk.{layer}.{part}.weight.lora_{half}"
        for layer in range(2)
        for part in ("attn_q", "ffn_down")
        for half in "ab"
    }
    with pytest.raises(ExportError, match="not stored as q4_k_m"):
        export_gguf_adapter(
            tmp_path / "adapter",
            tmp_path / "b.gguf",
            architecture=architecture,
            about=ABOUT,
            quantization="q4_k_m",
        )


def test_the_licence_of_the_base_is_found(tmp_path, smollm2_gguf):
    assert read_license(smollm2_gguf).id == "apache-2.0"
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlicense_link: x\n---\nText\n")
    assert read_license(tmp_path).id == "mit"
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert read_license(tmp_path).id is None


def test_smollm2_goes_out_as_it_came_in(tmp_path, smollm2_gguf):
    """A GGUF base written as f32 holds the very values that llama.cpp dequantises."""
    weights = open_weights(smollm2_gguf)
    name = "model.layers.3.self_attn.q_proj.weight"
    export_gguf(weights, tmp_path / "m.gguf", quantization="f16", model=smollm2_gguf, about=ABOUT)
    before, after = read_gguf(smollm2_gguf), read_gguf(tmp_path / "m.gguf")
    for tensor in ("blk.3.attn_q.weight", "blk.3.attn_norm.weight", "token_embd.weight"):
        expected = before.read(tensor)
        assert np.array_equal(
            after.read(tensor), expected.astype(np.float16).astype(np.float32)
        ) or (np.array_equal(after.read(tensor), expected))
    assert weights.shapes[name] == (576, 576)
    same = ("tokens", "token_type", "merges", "eos_token_id", "bos_token_id", "pre")
    for key in same:
        key = f"tokenizer.ggml.{key}"
        assert after.metadata[key] == before.metadata[key], key
