"""NF4 against bitsandbytes, bit for bit."""

from __future__ import annotations

import warnings

import pytest
import torch

from medimind.kernels.nf4 import Nf4Weight, dequantize_nf4, quantize_nf4
from medimind.kernels.nf4.codes import dynamic_code, nf4_bounds, nf4_code

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    functional = pytest.importorskip("bitsandbytes.functional")

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = ((64, 64), (128, 192), (3, 5), (1, 1), (7, 63), (1, 65), (257, 100), (320, 576), (33,))


def _weight(shape, dtype, *, seed=0, kind="normal"):
    generator = torch.Generator().manual_seed(seed)
    if kind == "normal":
        return (torch.randn(shape, generator=generator) * 0.02).to(dtype)
    if kind == "zeros":
        weight = torch.randn(shape, generator=generator)
        weight.view(-1)[:128] = 0
        return weight.to(dtype)
    if kind == "ties":
        # Midpoints of neighbouring codes, with a 1.0 in each block of 64 so that they stay there.
        bounds = nf4_bounds(torch.device("cpu"))
        numel = torch.Size(shape).numel()
        weight = bounds[torch.randint(0, 15, (numel,), generator=generator)]
        weight[::64] = 1.0
        return weight.view(shape).to(dtype)
    weight = torch.randn(shape, generator=generator)
    weight.view(-1)[::97] *= 1e4  # outliers
    return weight.to(dtype)


def _equal_bits(ours, theirs):
    assert ours.dtype == theirs.dtype
    ours, theirs = (tensor.reshape(-1).view(torch.uint8) for tensor in (ours, theirs))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["normal", "zeros", "ties", "outliers"])
@pytest.mark.parametrize("double_quantization", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_bits_equal_bitsandbytes(shape, dtype, double_quantization, kind):
    weight = _weight(shape, dtype, kind=kind)
    ours = quantize_nf4(weight, double_quantization=double_quantization)
    packed, state = functional.quantize_4bit(
        weight, blocksize=64, compress_statistics=double_quantization, quant_type="nf4"
    )
    _equal_bits(ours.packed_P, packed.view(-1))
    _equal_bits(ours.absmax_S, state.absmax)
    if double_quantization:
        _equal_bits(ours.nested_absmax_Z, state.state2.absmax)
        _equal_bits(ours.offset, state.offset)
    _equal_bits(dequantize_nf4(ours, dtype=dtype), functional.dequantize_4bit(packed, state))


@pytest.mark.parametrize("block_size", [32, 128, 4096])
def test_other_block_sizes(block_size):
    weight = _weight((96, 250), torch.float32)
    ours = quantize_nf4(weight, block_size=block_size)
    packed, state = functional.quantize_4bit(
        weight, blocksize=block_size, compress_statistics=True, quant_type="nf4"
    )
    _equal_bits(ours.packed_P, packed.view(-1))
    _equal_bits(
        dequantize_nf4(ours, dtype=torch.float32), functional.dequantize_4bit(packed, state)
    )


def test_chunks_do_not_show(monkeypatch):
    weight = _weight((257, 100), torch.float32)
    whole = quantize_nf4(weight)
    monkeypatch.setattr("medimind.kernels.nf4.quantize.CHUNK", 128)
    chunked = quantize_nf4(weight)
    for name, tensor in whole.tensors().items():
        _equal_bits(chunked.tensors()[name], tensor)


def test_scales_everywhere_on_the_range():
    """Scales spread so that every 8-bit code and the places between them are met."""
    weight = torch.ones(256 * 300, 64)
    weight *= torch.randn(256 * 300, 1, generator=torch.Generator().manual_seed(0)).abs() ** 3
    ours = quantize_nf4(weight)
    _, state = functional.quantize_4bit(
        weight, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    assert ours.absmax_S.unique().numel() > 180
    _equal_bits(ours.absmax_S, state.absmax)


def test_code_tables():
    cpu = torch.device("cpu")
    _equal_bits(dynamic_code(cpu), functional.create_dynamic_map())
    _equal_bits(nf4_code(cpu), functional.get_4bit_type("nf4", device="cpu"))


def test_quantising_twice_changes_nothing():
    weight = _weight((64, 64), torch.float32)
    once = dequantize_nf4(quantize_nf4(weight, double_quantization=False), dtype=torch.float32)
    twice = dequantize_nf4(quantize_nf4(once, double_quantization=False), dtype=torch.float32)
    assert torch.equal(once, twice)


def test_tensors_round_trip():
    weight = quantize_nf4(_weight((33, 65), torch.bfloat16))
    back = Nf4Weight.from_tensors(
        weight.tensors(), shape=weight.shape, dtype=weight.dtype, block_size=weight.block_size
    )
    expected = dequantize_nf4(weight, dtype=torch.float32)
    _equal_bits(dequantize_nf4(back, dtype=torch.float32), expected)
    assert weight.nbytes == 1073 + 34 + 4 + 4
    assert weight.numel == 33 * 65
    moved = weight.to("cpu")
    assert moved.device == torch.device("cpu")


def test_damaged_tensors_are_refused():
    weight = quantize_nf4(_weight((33, 65), torch.float32))
    tensors = dict(weight.tensors(), packed=weight.packed_P[:-1])
    with pytest.raises(ValueError, match="do not make an NF4 weight"):
        Nf4Weight.from_tensors(tensors, shape=weight.shape, dtype=weight.dtype)
    plain = quantize_nf4(_weight((33, 65), torch.float32), double_quantization=False)
    with pytest.raises(ValueError, match="do not make an NF4 weight"):
        Nf4Weight.from_tensors(plain.tensors(), shape=(64, 65), dtype=plain.dtype)


def test_out_buffer():
    weight = quantize_nf4(_weight((33, 65), torch.float32))
    out = torch.full((33 * 65,), torch.nan)
    result = dequantize_nf4(weight, dtype=torch.float32, out=out)
    assert result.data_ptr() == out.data_ptr()
    assert torch.equal(result, dequantize_nf4(weight, dtype=torch.float32))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="block_size"):
        quantize_nf4(torch.zeros(4), block_size=48)
    with pytest.raises(ValueError, match="cannot quantise"):
        quantize_nf4(torch.zeros(4, dtype=torch.int8))


@pytest.mark.parametrize("double_quantization", [True, False])
@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("shape", [(64, 64), (3, 5), (1, 1), (7, 63), (257, 100), (70, 320)])
def test_triton_gives_the_same_bits(shape, block_size, double_quantization, dtype, device):
    from medimind.kernels.nf4.forward import dequantize_nf4_triton

    weight = quantize_nf4(
        _weight(shape, torch.float32, kind="outliers"),
        block_size=block_size,
        double_quantization=double_quantization,
    )
    expected = dequantize_nf4(weight, dtype=dtype)
    out = torch.full(shape, torch.nan, dtype=dtype, device=device)
    dequantize_nf4_triton(weight.to(device), dtype=dtype, out=out)
    _equal_bits(out.cpu(), expected)


def test_triton_writes_rows_apart(dtype, device):
    from medimind.kernels.nf4.forward import dequantize_nf4_triton

    weight = quantize_nf4(_weight((70, 192), torch.float32))
    wide = torch.full((70, 200), torch.nan, dtype=dtype, device=device)
    dequantize_nf4_triton(weight.to(device), dtype=dtype, out=wide[:, :192])
    _equal_bits(wide[:, :192].contiguous().cpu(), dequantize_nf4(weight, dtype=dtype))
    assert wide[:, 192:].isnan().all()


def test_triton_refuses_rows_that_cut_blocks(device):
    from medimind.kernels.nf4.forward import dequantize_nf4_triton

    weight = quantize_nf4(_weight((70, 100), torch.float32)).to(device)
    wide = torch.empty((70, 128), device=device)
    with pytest.raises(ValueError, match="whole blocks"):
        dequantize_nf4_triton(weight, dtype=torch.float32, out=wide[:, :100])
    square = quantize_nf4(_weight((64, 64), torch.float32)).to(device)
    turned = torch.empty(64, 64, device=device).t()
    with pytest.raises(ValueError, match="side by side"):
        dequantize_nf4_triton(square, dtype=torch.float32, out=turned)


def test_fp8_row_scales():
    pytest.importorskip("triton")
    from medimind.kernels.nf4.forward import FP8_MAX, fp8_row_scales

    weight = quantize_nf4(_weight((70, 192), torch.float32))
    exact = dequantize_nf4(weight, dtype=torch.float32)
    assert torch.equal(fp8_row_scales(weight), exact.abs().amax(dim=1) / FP8_MAX)


@pytest.mark.gpu
def test_fp8_on_the_card():
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no CUDA card with fp8")
    from medimind.kernels.nf4.forward import dequantize_nf4_triton, fp8_row_scales

    weight = quantize_nf4(_weight((256, 320), torch.float32)).to("cuda")
    scale = fp8_row_scales(weight)
    exact = dequantize_nf4(weight, dtype=torch.float32)
    found = dequantize_nf4_triton(weight, dtype=torch.float8_e4m3fn, row_scale_O=scale)
    error = (found.float() * scale[:, None] - exact).norm() / exact.norm()
    assert error < 0.03
