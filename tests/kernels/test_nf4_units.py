"""NF4 as units: their order and decoding without a card, their products on a Hopper."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from tolerance import assert_close, relative_error

from medimind.kernels.nf4 import dequantize_nf4, quantize_nf4
from medimind.kernels.nf4.codes import NF4_CODE
from medimind.kernels.nf4_linear import repack as reference
from medimind.kernels.nf4_linear.repack import can_repack, repack, unpack
from medimind.models.graph_decode.unit_products import TRITON

# rows, inputs, outputs of each part
SHAPES = [
    (2, 128, (16,)),
    (16, 512, (80, 16, 64)),
    (33, 384, (272,)),
    (128, 1024, (256,)),
    (130, 1024, (528, 32)),
]


def _weights(inputs, outputs):
    found = []
    for seed, size in enumerate(outputs):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(size, inputs, generator=generator) / inputs**0.5
        found.append(quantize_nf4(weight * torch.linspace(0.1, 3, size)[:, None]))
    return found


def _units(inputs, outputs, *, device, interleaved=False):
    weights = [weight.to(device) for weight in _weights(inputs, outputs)]
    return repack(weights, interleaved=interleaved)


@pytest.mark.parametrize("interleaved", [False, True])
def test_unpacked_units_are_the_weights_with_factors_in_bf16(interleaved):
    weights = _weights(256, (48, 48))
    exact = torch.cat([dequantize_nf4(weight, dtype=torch.float32) for weight in weights])
    found = unpack(repack(weights, interleaved=interleaved))
    assert found.dtype == torch.bfloat16
    # Three roundings to 8 bits of mantissa.
    assert ((found.float() - exact).abs() <= exact.abs() * 3 * 2**-8).all()
    assert relative_error(found, exact) < 3e-3


def test_codes_lie_where_the_registers_of_a_lane_want_them():
    (weight,) = _weights(128, (32,))
    packed = weight.packed_P.view(-1)
    codes = torch.stack((packed >> 4, packed & 15), dim=-1).view(32, 128)
    words = repack([weight]).codes_UKP.contiguous().view(torch.int32).view(2, 2, 32, 4)
    for unit, block, lane, word in ((0, 0, 0, 0), (1, 0, 5, 2), (0, 1, 31, 3), (1, 1, 18, 1)):
        g, t, s, h = lane // 4, lane % 4, word // 2, word % 2
        for half in range(2):
            for r in range(2):
                for k in range(2):
                    place = 4 * half + 2 * r + k
                    value = (int(words[unit, block, lane, word]) >> (4 * place)) & 15
                    column = 64 * block + 32 * half + 16 * s + 8 * h + 2 * t + k
                    assert value == codes[16 * unit + 8 * r + g, column]


def test_what_is_no_whole_units_is_refused():
    assert can_repack(_weights(128, (16, 32)))
    for weights in (_weights(128, (24,)), _weights(192, (16,)), _weights(64, (16,))):
        assert not can_repack(weights)


def _run(text: str, values: dict[str, int]) -> dict[str, int]:
    """The few PTX instructions of the decoding, on 32-bit words."""
    registers = dict(values)

    def read(name: str) -> int:
        return int(name, 16) if name.startswith("0x") else registers[name]

    def scaled(word: int, scales: int) -> int:
        pairs = torch.tensor([word, scales], dtype=torch.int64).to(torch.int32)
        product = pairs.view(torch.bfloat16).view(2, 2).prod(dim=0)
        return int(product.view(torch.int32)) & 0xFFFFFFFF

    for line in text.splitlines():
        found = re.fullmatch(r"(and|shl|shr|prmt|lop3|mul)\S* (.*);", line)
        if found is None:
            assert line in "{}" or line.startswith(".reg")
            continue
        operation, target = found[1], found[2].split(", ")[0]
        inputs = found[2].split(", ")[1:]
        if operation in ("shl", "shr"):
            word, count = read(inputs[0]), int(inputs[1])
            result = word << count if operation == "shl" else word >> count
        elif operation == "and":
            result = read(inputs[0]) & read(inputs[1])
        elif operation == "mul":
            result = scaled(read(inputs[0]), read(inputs[1]))
        elif operation == "lop3":
            a, b, c = (read(name) for name in inputs[:3])
            assert inputs[3] == "0xd8"
            result = (a & ~c) | (b & c)
        else:
            pool = read(inputs[0]) | read(inputs[1]) << 32
            result = 0
            for index in range(4):
                selector = read(inputs[2]) >> (4 * index) & 15
                byte = pool >> (8 * (selector & 7)) & 255
                result |= (255 * (byte >> 7) if selector & 8 else byte) << (8 * index)
        registers[target] = result & 0xFFFFFFFF
    return registers


@pytest.mark.parametrize("codes", [range(8), range(8, 16), (15, 0, 7, 8, 3, 12, 1, 14)])
def test_the_lanes_instructions_give_code_times_scale(codes):
    kernel = pytest.importorskip("medimind.kernels.nf4_linear.hopper_kernel", exc_type=ImportError)
    scales = torch.tensor([0.3, 0.3, 7.0, 7.0], dtype=torch.bfloat16)
    word = sum(code << (4 * place) for place, code in enumerate(codes))
    halves = [int(x) & 0xFFFFFFFF for x in scales.view(torch.int32)]
    values = {"$2": word, "$3": halves[0], "$4": halves[1]}
    for index, bytes_of_codes in enumerate(kernel.code_table(torch.device("cpu")).tolist()):
        values[f"${5 + 4 * index}"] = bytes_of_codes & 0xFFFFFFFF
    runs = [_run(text.value, values) for text in (kernel.FIRST, kernel.SECOND)]
    found = [run[name] for run in runs for name in ("$0", "$1")]
    bits = torch.tensor(found, dtype=torch.int64).to(torch.int32)
    table = torch.tensor(NF4_CODE).to(torch.bfloat16)
    expected = table[list(codes)].view(2, 4) * scales
    assert torch.equal(bits.view(torch.bfloat16).view(2, 4), expected)


def _ptx_of(kernel, *, rows, stages, warps, mode, columns):
    """As ``hopper.units_linear`` launches it, built without a card."""
    compiler = pytest.importorskip("triton.compiler")
    from triton.backends.compiler import GPUTarget
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon._runtime import GluonASTSource

    layout = gl.NVMMASharedLayout.get_default_for([rows, 64], gl.bfloat16)
    described = f"tensordesc<bf16[{rows}, 64],{layout!r}>"
    types = {
        "x_desc": described,
        "codes_ptr": "*u8",
        "scales_ptr": "*i32",
        "table_ptr": "*i32",
        "t_desc": described,
        "b_ptr": "*bf16",
        "out_ptr": "*fp32" if mode == "parts" else "*bf16",
    }
    names = kernel.linear_kernel.arg_names
    types |= {name: "i32" for name in names if name.islower() and name not in types}
    fixed = {"INPUTS": 4096, "COLUMNS": columns, "MODE": mode, "PDL": True, "ROWS": rows}
    fixed |= {"STAGES": stages, "UNITS": warps}
    types |= dict.fromkeys(fixed, "constexpr")
    aligned = [name for name in names if name.islower() and types[name] != described]
    aligned.remove("num_splits")
    source = GluonASTSource(
        kernel.linear_kernel,
        types,
        {(names.index(name),): value for name, value in fixed.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": warps, "maxnreg": 128}
    built = compiler.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return built.asm["ptx"]


@pytest.mark.parametrize(("mode", "stages", "columns"), [("swiglu", 4, 0), ("parts", 5, 0)])
def test_built_for_a_hopper_products_run_beside_the_decoding(tmp_path, mode, stages, columns):
    kernel = pytest.importorskip("medimind.kernels.nf4_linear.hopper_kernel", exc_type=ImportError)
    if not version("triton").startswith(TRITON):
        pytest.skip(f"the kernel is written for Triton {TRITON}x")
    import triton

    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    text = tmp_path / "kernel.ptx"
    text.write_text(
        _ptx_of(kernel, rows=128, stages=stages, warps=8, mode=mode, columns=columns),
        encoding="utf-8",
    )
    command = [assembler, "-v", "--gpu-name=sm_90a", text, "-o", tmp_path / "kernel.cubin"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    # C7510 and its neighbours: wgmma waits for each one before it.
    assert "serialized" not in told, told
    assert " 0 bytes spill stores" in told


@pytest.fixture
def hopper():
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("no Hopper")
    from medimind.kernels.nf4_linear import hopper

    return hopper


def _check(hopper, shape, *, columns=0, interleaved=False, **options):
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(rows, inputs + 64, generator=generator).to(torch.bfloat16)
    x, units, update = (
        wide[:, :inputs],
        _units(inputs, outputs, device="cpu", interleaved=interleaved),
        None,
    )
    if columns:
        b = torch.randn(sum(outputs), columns, generator=generator).to(torch.bfloat16) * 0.1
        update = torch.randn(rows, columns, generator=generator).to(torch.bfloat16), b
    exact = x.double() @ unpack(units).double().t()
    if update is not None:
        exact += update[0].double() @ update[1].double().t()
    if interleaved:
        gate, up = exact.chunk(2, dim=1)
        exact = torch.nn.functional.silu(gate) * up
    plain = torch.empty(exact.shape, dtype=torch.bfloat16)
    parts = reference.units_linear(x, units, update=update, out_BO=plain)
    plain = plain if parts is None else parts.sum(dim=0).to(torch.bfloat16)
    size = exact.shape[1]
    out = torch.full((rows, size + 8), torch.nan, dtype=torch.bfloat16, device="cuda")
    parts = hopper.units_linear(
        wide.cuda()[:, :inputs],
        _units(inputs, outputs, device="cuda", interleaved=interleaved),
        update=None if update is None else tuple(part.cuda() for part in update),
        out_BO=out[:, :size],
        **options,
    )
    found = out[:, :size] if parts is None else parts.sum(dim=0).to(torch.bfloat16)
    assert_close(found, exact, plain)
    assert out[:, size:].isnan().all()
    return parts


@pytest.mark.gpu
@pytest.mark.parametrize("pdl", [False, True])
@pytest.mark.parametrize("columns", [0, 128])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_the_references(hopper, shape, columns, pdl):
    _check(hopper, shape, columns=columns, pdl=pdl)


@pytest.mark.gpu
@pytest.mark.parametrize("columns", [0, 64])
@pytest.mark.parametrize("shape", [(2, 256, (40, 40)), (130, 512, (264, 264)), (64, 128, (16, 16))])
def test_gate_and_up_come_gated(hopper, shape, columns):
    assert _check(hopper, shape, columns=columns, interleaved=True) is None


@pytest.mark.gpu
@pytest.mark.parametrize(("warps", "stages"), [(4, 5), (8, 4), (4, 8)])
@pytest.mark.parametrize("rows", [5, 50, 130])
def test_stretches_are_parts_whatever_their_number(hopper, rows, warps, stages):
    for programs in (1, 1000):
        tiles = hopper.HopperTiles(warps=warps, stages=stages, programs=programs)
        parts = _check(hopper, (rows, 1280, (96, 48)), columns=64, tiles=tiles)
        assert (parts is None) == (programs == 1)


@pytest.mark.gpu
def test_outputs_are_the_same_each_time(hopper):
    x = torch.randn(100, 1024, device="cuda").to(torch.bfloat16)
    units = _units(1024, (256,), device="cuda")
    outs = []
    for _ in range(5):
        out = x.new_empty(100, 256)
        parts = hopper.units_linear(x, units, out_BO=out)
        outs.append(out if parts is None else parts)
    assert all(torch.equal(out, outs[0]) for out in outs)
