"""Checkpoints of every family and format against transformers, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from medimind.config import ModelConfig
from medimind.errors import CheckpointError, ConfigError, MediMindError
from medimind.kernels.nf4 import dequantize_nf4, quantize_nf4
from medimind.models.checkpoint import open_checkpoint, weight_shapes
from medimind.models.load import hash_files, load_decoder, load_model, pick_device, pick_dtype
from tiny_checkpoints import make_config, make_transformers_model, write_folder, write_gguf

IDS = torch.tensor([5, 17, 240, 3, 99, 41, 7])


def load(path, **options):
    values = {"quantization": "none", "device": "cpu"} | options
    return load_model(ModelConfig(path=str(path), **values))


def logits(decoder):
    length = len(IDS)
    with torch.no_grad():
        hidden_TD = decoder(IDS, torch.arange(length), cu_seqlens=[0, length], max_seqlen=length)
        return decoder.logits(hidden_TD)


def assert_same_logits(decoder, reference, *, tolerance=1e-4):
    with torch.no_grad():
        expected = reference(IDS[None]).logits[0].float()
    assert (logits(decoder) - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_folder_gives_transformers_logits(tmp_path, family):
    folder = write_folder(tmp_path / family, family, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    model = load(folder)
    assert_same_logits(model.decoder, AutoModelForCausalLM.from_pretrained(folder))
    assert model.eos_ids == (2,)
    assert model.name == str(folder)
    assert model.revision is None
    assert len(model.sha256) == 64


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_gguf_file_gives_transformers_logits(tmp_path, family):
    changes = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    reference = make_transformers_model(family, **(changes if family == "llama" else {}))
    path = write_gguf(tmp_path / "tiny.gguf", reference)
    assert_same_logits(load(path).decoder, reference)


def test_the_factors_of_a_gguf_file_are_llama3s_scaling(tmp_path):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    reference = make_transformers_model("llama")
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](reference.config, "cpu")
    plain = 1.0 / 500000.0 ** (torch.arange(0, 16, 2).float() / 16)
    path = write_gguf(tmp_path / "tiny.gguf", reference, rope_factors=(plain / scaled).tolist())
    assert_same_logits(load(path).decoder, reference)


def test_broken_rope_factors_are_refused(tmp_path):
    reference = make_transformers_model("llama")
    path = write_gguf(tmp_path / "a.gguf", reference, rope_factors=[0.0] * 8)
    with pytest.raises(CheckpointError, match="not positive numbers"):
        load(path)
    path = write_gguf(tmp_path / "b.gguf", reference, rope_factors=[1.0] * 5)
    with pytest.raises(CheckpointError, match="rope factors"):
        load(path)


def test_a_quantised_gguf_file_holds_its_dequantised_values(tmp_path):
    reference = make_transformers_model("qwen2")
    path = write_gguf(tmp_path / "a.gguf", reference, type=gguf.GGMLQuantizationType.Q8_0)
    decoder = load(path).decoder
    weight = reference.state_dict()["model.layers.1.mlp.up_proj.weight"].numpy()
    stored = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType.Q8_0)
    loaded = decoder.get_parameter("model.layers.1.mlp.up_proj.weight")
    np.testing.assert_array_equal(loaded.detach().numpy(), expected)


@pytest.mark.slow
def test_the_built_in_model_gives_transformers_logits(smollm2_reference):
    model = load("smollm2-135m-instruct")
    assert_same_logits(model.decoder, smollm2_reference)
    assert model.name == "smollm2-135m-instruct"


def test_nf4_quantises_the_projections_only(tiny_folder):
    dense, nf4 = load(tiny_folder).decoder, load(tiny_folder, quantization="nf4").decoder
    projections = {f"{name}.weight" for name, _ in dense.projections()}
    for name, parameter in dense.named_parameters():
        other = nf4.get_parameter(name)
        if name in projections:
            expected = dequantize_nf4(quantize_nf4(parameter.data), dtype=torch.float32)
            assert torch.equal(other, expected)
            assert not torch.equal(other, parameter)
        else:
            assert torch.equal(other, parameter)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_other_dtypes_hold_the_rounded_weights(tiny_folder, dtype):
    model = load(tiny_folder, dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    full = load(tiny_folder).decoder
    for name, parameter in model.decoder.named_parameters():
        assert torch.equal(parameter, full.get_parameter(name).to(model.dtype))


def test_shapes_are_the_decoders(tiny):
    assert weight_shapes(tiny.architecture) == tiny.decoder.tensor_shapes()


def test_devices_and_dtypes_follow_the_card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="no CUDA card"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
    assert pick_dtype("auto", device=torch.device("cpu")) == torch.float32
    for capability, expected in (((7, 5), torch.float16), ((8, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert pick_dtype("auto", device=torch.device("cuda")) == expected
    assert pick_dtype("float32", device=torch.device("cuda")) == torch.float32


def test_memory_that_does_not_suffice_is_told(tiny_folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("medimind.models.load.Decoder", refuse)
    with pytest.raises(CheckpointError, match="does not fit into the memory"):
        load(tiny_folder)


def test_every_eos_id_of_a_checkpoint_is_known(tmp_path, tiny_folder):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "m"))
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7, 9999, "x"]}')
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder).eos_ids == (2, 1, 7)


def test_the_hash_changes_with_the_weights(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    both = hash_files((tmp_path / "b", tmp_path / "a"))
    assert both == hash_files((tmp_path / "a", tmp_path / "b"))
    assert both != hash_files((tmp_path / "a",))
    (tmp_path / "b").write_bytes(b"23")
    assert hash_files((tmp_path / "a", tmp_path / "b")) != both


@pytest.fixture
def copy(tmp_path, tiny_folder) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in change(tensors).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_value(name, value):
    def change(tensors):
        tensors[name].view(-1)[3] = value
        return tensors

    return change


NORM = "model.layers.1.input_layernorm.weight"
UP = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(copy, value):
    change_weights(copy, with_value(UP, value))
    with pytest.raises(CheckpointError, match=rf"'{UP}' holds NaN or infinity in float32"):
        load(copy)


def test_values_beyond_the_dtype_are_refused(copy):
    change_weights(copy, with_value(NORM, 1e6))
    load(copy, dtype="bfloat16")
    with pytest.raises(CheckpointError, match="infinity in float16"):
        load(copy, dtype="float16")


def test_tensors_that_do_not_fit_are_all_listed(copy):
    def change(tensors):
        tensors["model.layers.0.mlp.router.weight"] = torch.zeros(2)
        tensors[UP] = tensors[UP][:-1]
        return {name: tensor for name, tensor in tensors.items() if name != NORM}

    change_weights(copy, change)
    with pytest.raises(CheckpointError) as caught:
        load(copy)
    for part in (f"1 missing ({NORM})", f"{UP} (95, 64), not (96, 64)", "mlp.router.weight"):
        assert part in str(caught.value)


def test_a_copy_of_a_tied_head_is_not_an_error(tmp_path):
    folder = write_folder(tmp_path / "m", "qwen2")
    change_weights(
        folder,
        lambda tensors: {
            **tensors,
            "lm_head.weight": tensors["model.embed_tokens.weight"].clone(),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        },
    )
    load(folder)


UNSUPPORTED = {
    "family": ({"model_type": "gemma3"}, "llama, mistral, qwen2, qwen3"),
    "no family": ({"model_type": None}, "not supported"),
    "layers by the million": ({"num_hidden_layers": 10**9}, "names 1000000000 layers"),
    "width by the million": ({"hidden_size": 10**9}, "of another shape"),
    "quantised": ({"quantization_config": {"bits": 4}}, "already quantised"),
    "a text for a number": ({"hidden_size": "64"}, "hidden_size"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_configurations_that_do_not_fit_are_refused(copy, name):
    changes, message = UNSUPPORTED[name]
    change_config(copy, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(copy)


def test_an_unsupported_gguf_architecture_lists_the_supported(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "falcon")
    writer.add_tensor("x", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"'falcon' is not supported.*llama.*qwen3"):
        load(tmp_path / "a.gguf")


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tmp_path):
    folder = write_folder(tmp_path / "m", "qwen2", vocab_size=200)
    with pytest.raises(CheckpointError, match=r"tokenizer has \d+ tokens, the embedding only 200"):
        load(folder)


def test_packed_integers_are_refused(copy):
    change_weights(copy, lambda tensors: {**tensors, UP: torch.zeros(96, 64, dtype=torch.int8)})
    with pytest.raises(CheckpointError, match="stored as I8"):
        load(copy)


def test_reading_an_unknown_tensor_is_an_error(tiny_folder):
    checkpoint = open_checkpoint(tiny_folder)
    with pytest.raises(CheckpointError, match="no tensor 'x'"):
        checkpoint.read("x", dtype=torch.float32)


@pytest.fixture
def sharded(tmp_path) -> Path:
    return write_folder(tmp_path / "m", "llama", max_shard_size="100KB")


def test_a_missing_shard_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        load(sharded)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ([1], "'weight_map' is not a map"),
        ({}, "'weight_map' is not a map"),
        ({"a": "../../etc/passwd"}, "not in the folder: ../../etc/passwd"),
        ({"a": "none.safetensors"}, "not in the folder: none.safetensors"),
        ({"a": 3}, "not in the folder: 3"),
    ],
)
def test_an_index_that_lies_is_refused(sharded, weight_map, message):
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=message):
        load(sharded)


def test_an_index_that_names_the_wrong_shard_is_refused(sharded):
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    shards = sorted(set(content["weight_map"].values()))
    content["weight_map"][UP] = next(s for s in shards if s != content["weight_map"][UP])
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"not in the files that the index names: {UP}"):
        load(sharded)


def test_shards_without_an_index_are_read_together(sharded):
    expected = logits(load(sharded).decoder)
    (sharded / "model.safetensors.index.json").unlink()
    assert torch.equal(logits(load(sharded).decoder), expected)
    first = sorted(sharded.glob("*.safetensors"))[0]
    shutil.copy(first, sharded / "other.safetensors")
    with pytest.raises(CheckpointError, match="is in model-00001"):
        load(sharded)


def test_loading_holds_one_layer_in_full_width(tiny_folder, monkeypatch):
    """NF4 must not need the dense model first: a layer is quantised before the next is made."""
    from medimind.models.decoder import Decoder
    from medimind.models.layer import Layer

    events = []
    allocate, quantize = Decoder.allocate_layer, Layer.quantize_nf4

    def note_allocate(self, index):
        events.append(f"allocate {index}")
        return allocate(self, index)

    def note_quantize(self, **options):
        events.append(f"quantise {self.index}")
        quantize(self, **options)

    monkeypatch.setattr(Decoder, "allocate_layer", note_allocate)
    monkeypatch.setattr(Layer, "quantize_nf4", note_quantize)
    load_decoder(
        open_checkpoint(tiny_folder),
        dtype=torch.float32,
        device=torch.device("cpu"),
        nf4=True,
    )
    assert events == ["allocate 0", "quantise 0", "allocate 1", "quantise 1"]


def test_mistral_with_a_window_refuses_longer_texts(tmp_path):
    model = load(write_folder(tmp_path / "m", "mistral", sliding_window=4))
    with pytest.raises(MediMindError, match="window"):
        logits(model.decoder)
    assert make_config("mistral").sliding_window is None
