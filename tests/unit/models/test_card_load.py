"""Reading by threads: every byte in its place, and the same decoder as by the plain way."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medimind.errors import CheckpointError
from medimind.kernels.int8 import quantize_int8
from medimind.kernels.nf4 import dequantize_nf4
from medimind.models import stream
from medimind.models.card_load import fill_on_card
from medimind.models.checkpoint import open_checkpoint
from medimind.models.decoder import Decoder
from medimind.models.load import load_decoder
from medimind.models.stream import stream_tensors
from tiny_checkpoints import write_folder

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    return torch.device(request.param)


@pytest.fixture(params=[1, 100, 4096, 1 << 20])
def piece_bytes(request, monkeypatch):
    """Pieces smaller and larger than tensors; a buffer is used many times over."""
    monkeypatch.setattr(stream, "PIECE_BYTES", request.param)


def _empty(checkpoint, device, dtype=torch.float32):
    return Decoder(checkpoint.architecture, dtype=dtype, device=device, allocate_layers=False)


def test_every_tensor_arrives(tmp_path, device, piece_bytes):
    tensors = {
        "a": torch.randn(37, 5).bfloat16(),
        "b": torch.arange(7, dtype=torch.float64),
        "c": torch.randn(129, 11),
    }
    path = tmp_path / "m" / "model.safetensors"
    path.parent.mkdir()
    save_file(tensors, path)
    header = stream_entries(path)
    for _ in range(2):
        found = {t.name: values.cpu() for t, values in stream_tensors(header, device=device)}
        assert {name: values.dtype for name, values in found.items()} == {
            name: values.dtype for name, values in tensors.items()
        }
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def stream_entries(path):
    from medimind.formats.safetensors_file import read_header
    from medimind.models.checkpoint import _DTYPES

    return [
        stream.StoredTensor(e.name, path, e.offset, e.num_bytes, _DTYPES[e.dtype], e.shape)
        for e in read_header(path).tensors.values()
    ]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dense_weights_are_those_of_the_plain_way(tmp_path, device, family, dtype):
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", family, max_shard_size="100KB"))
    expected = load_decoder(checkpoint, dtype=dtype, device=torch.device("cpu"), nf4=False)
    decoder = _empty(checkpoint, device, dtype)
    fill_on_card(decoder, checkpoint, nf4=False, double_quantization=True)
    assert not decoder.missing_tensors()
    found = dict(decoder.named_parameters())
    for name, parameter in expected.named_parameters():
        assert torch.equal(found[name].cpu(), parameter)


@pytest.mark.parametrize("double", [True, False])
def test_nf4_is_that_of_the_plain_way_and_nothing_dense_is_left(tiny_folder, device, double):
    checkpoint = open_checkpoint(tiny_folder)
    decoder = _empty(checkpoint, device)
    fill_on_card(decoder, checkpoint, nf4=True, double_quantization=double)
    assert not decoder.missing_tensors()
    expected = Decoder(checkpoint.architecture, device=device)
    for name, shape in decoder.tensor_shapes().items():
        values = checkpoint.read(name, dtype=torch.float32)
        assert tuple(values.shape) == shape
        expected.load_tensor(name, values)
    expected.quantize_nf4(double_quantization=double)
    others = dict(expected.projections())
    for name, projection in decoder.projections():
        assert projection.weight is None
        assert projection.nf4 is not None
        held = dequantize_nf4(projection.nf4, dtype=torch.float32)
        # On a CPU the plain way holds the dequantised values.
        assert torch.equal(held, others[name].dense(dtype=torch.float32))
        if device.type == "cuda":
            assert torch.equal(projection.nf4.packed_P, others[name].nf4.packed_P)
    projections = sum(p.nf4.nbytes for _, p in decoder.projections())
    dense = sum(4 * p.in_features * p.out_features for _, p in decoder.projections())
    assert projections < dense / 6


def test_embedding_and_head_in_8_bits(tiny_folder, device):
    checkpoint = open_checkpoint(tiny_folder)
    decoder = Decoder(
        checkpoint.architecture, device=device, allocate_layers=False, dense_tables=False
    )
    fill_on_card(decoder, checkpoint, nf4=False, double_quantization=True, int8_tables=True)
    assert not decoder.missing_tensors()
    for name, table in decoder.tables():
        assert table.weight is None
        expected = quantize_int8(checkpoint.read(name, dtype=torch.float32).to(device))
        assert torch.equal(table.int8.values_VD, expected.values_VD)
    plain = load_decoder(
        checkpoint, dtype=torch.float32, device=torch.device("cpu"), nf4=False, int8_tables=True
    )
    ids, offsets = torch.tensor([5, 17, 240]), [0, 3]
    positions = torch.arange(3)
    hidden = plain(ids, positions, cu_seqlens=offsets, max_seqlen=3)
    expected = plain.logits(hidden)
    hidden = decoder(ids.to(device), positions.to(device), cu_seqlens=offsets, max_seqlen=3)
    assert torch.allclose(decoder.logits(hidden).cpu(), expected, rtol=1e-3, atol=1e-4)


def test_values_the_dtype_cannot_hold_are_named(tmp_path, tiny_folder, device):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e6
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(folder)
    options = {"nf4": True, "double_quantization": True}
    fill_on_card(_empty(checkpoint, device), checkpoint, **options)
    message = r"'model.layers.1.mlp.up_proj.weight' holds NaN or infinity in float16"
    with pytest.raises(CheckpointError, match=message):
        fill_on_card(_empty(checkpoint, device, torch.float16), checkpoint, **options)


def test_a_file_that_became_shorter_is_refused(tmp_path, tiny_folder, device):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    checkpoint = open_checkpoint(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is cut off"):
        fill_on_card(_empty(checkpoint, device), checkpoint, nf4=False, double_quantization=True)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot read the file"):
        fill_on_card(_empty(checkpoint, device), checkpoint, nf4=False, double_quantization=True)
