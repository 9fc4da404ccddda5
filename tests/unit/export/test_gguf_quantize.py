"""Stored types held against the ``gguf`` package and against llama.cpp's own quantiser."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Kind
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from medimind.errors import ExportError
from medimind.export.gguf.quantize import K_KINDS, quantize, stored_bytes

PLAIN = (Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q5_0, Kind.Q5_1)


def weights(shape=(24, 512), seed=0, spread=0.02):
    """Rows like a trained weight's: normal, with a scale of their own and some outliers."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(0, spread, shape) * generator.uniform(0.2, 3, (shape[0], 1))
    rows[generator.random(shape) < 0.001] *= 12
    return rows.astype(np.float32)


def restored(stored, kind, shape):
    block, size = GGML_QUANT_SIZES[kind]
    return quants.dequantize(stored.reshape(shape[0], shape[1] // block * size), kind)


def rmse(rows, stored, kind):
    return float(np.sqrt(np.mean((rows - restored(stored, kind, rows.shape)) ** 2)))


@pytest.fixture(scope="module")
def llama_cpp():
    """llama.cpp's quantiser, out of the library that xllamacpp ships."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the extra 'local' is not installed")
    import xllamacpp  # noqa: F401  # loads what the library needs

    (file,) = Path(spec.submodule_search_locations[0]).glob("*.so")
    library = ctypes.CDLL(str(file))
    if not hasattr(library, "ggml_quantize_chunk"):
        pytest.skip("this build of llama.cpp does not show its quantiser")
    function = library.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]

    def run(rows, kind, importance=None):
        out = np.zeros(stored_bytes(rows.shape, kind), dtype=np.uint8)
        weight = None if importance is None else importance.ctypes.data
        function(kind, rows.ctypes.data, out.ctypes.data, 0, *rows.shape, weight)
        return out

    return run


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q5_0, Kind.Q5_1])
def test_simple_types_are_llama_cpps_bytes(llama_cpp, kind):
    rows = weights()
    assert np.array_equal(quantize(rows, kind), llama_cpp(rows, kind))


@pytest.mark.parametrize("with_importance", [False, True])
@pytest.mark.parametrize("kind", K_KINDS)
def test_k_quants_are_as_exact_as_llama_cpps(llama_cpp, kind, with_importance):
    rows = weights()
    importance = None
    if with_importance:
        generator = np.random.default_rng(1)
        importance = generator.lognormal(0, 1.5, rows.shape[1]).astype(np.float32)
    ours, theirs = quantize(rows, kind, importance=importance), llama_cpp(rows, kind, importance)
    weight = np.ones(rows.shape[1]) if importance is None else importance
    errors = [
        np.sqrt(np.mean((rows - restored(stored, kind, rows.shape)) ** 2 * weight))
        for stored in (ours, theirs)
    ]
    assert errors[0] <= 1.005 * errors[1]


@pytest.mark.parametrize("kind", K_KINDS)
def test_importance_makes_the_columns_that_matter_exact(kind):
    rows = weights(seed=4)
    importance = np.ones(rows.shape[1], dtype=np.float32)
    importance[::8] = 200
    plain = restored(quantize(rows, kind), kind, rows.shape)
    weighted = restored(quantize(rows, kind, importance=importance), kind, rows.shape)

    def error(found):
        return float(np.mean((rows - found)[:, ::8] ** 2))

    assert error(weighted) < error(plain)


# Root-mean-square error of weights like these over their own root mean square.
RELATIVE = {
    Kind.F32: 0.0,
    Kind.F16: 3e-4,
    Kind.BF16: 2e-3,
    Kind.Q8_0: 8e-3,
    Kind.Q6_K: 0.025,
    Kind.Q5_K: 0.04,
    Kind.Q5_1: 0.06,
    Kind.Q5_0: 0.07,
    Kind.Q4_K: 0.09,
}


@pytest.mark.parametrize("kind", [*PLAIN, *K_KINDS])
def test_errors_are_of_the_size_that_the_bits_allow(kind):
    rows = weights()
    stored = quantize(rows, kind)
    assert stored.nbytes == stored_bytes(rows.shape, kind)
    relative = rmse(rows, stored, kind) / float(np.sqrt(np.mean(rows**2)))
    assert relative <= RELATIVE[kind]
    assert kind == Kind.F32 or relative > RELATIVE[kind] / 4


@pytest.mark.parametrize("kind", [*PLAIN, *K_KINDS])
@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((2, 256), np.float32),
        np.full((1, 256), 3.5, np.float32),
        np.full((1, 256), -1e-30, np.float32),
        np.eye(1, 256, 7, dtype=np.float32) * 1e4,
        -np.abs(weights((2, 256))),
    ],
    ids=["zeros", "constant", "tiny", "one", "negative"],
)
def test_odd_rows_come_back(kind, rows):
    found = restored(quantize(rows, kind), kind, rows.shape)
    assert np.isfinite(found).all()
    assert np.abs(found - rows).max() <= 0.13 * np.abs(rows).max() + 1e-12


@settings(max_examples=60, deadline=None)
@given(
    rows=np_st.arrays(np.float32, (2, 256), elements=st.floats(-1000, 1000, width=32)),
    kind=st.sampled_from(K_KINDS),
)
def test_any_finite_rows_are_stored(rows, kind):
    found = restored(quantize(rows, kind), kind, rows.shape)
    assert np.isfinite(found).all()
    # A superblock's scale is an fp16 number: its smallest, 2^-24, times 128 scales times 32 codes.
    assert np.abs(found - rows).max() <= 0.2 * np.abs(rows).max() + 2**-24 * 128 * 32


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.nan, Kind.Q4_K),
        (np.inf, Kind.F16),
        (1e5, Kind.F16),
        (-1e7, Kind.Q5_0),
        (-np.inf, Kind.F32),
    ],
)
def test_what_a_type_cannot_hold_is_refused(value, kind):
    rows = weights((1, 256))
    rows[0, 3] = value
    with pytest.raises(ExportError, match="cannot store"):
        quantize(rows, kind)


def test_rows_do_not_depend_on_their_neighbours():
    """Slices are quantised apart, so where a slice begins must not matter."""
    rows = weights((40, 256))
    for kind in K_KINDS:
        whole = quantize(rows, kind).reshape(40, -1)
        parts = [quantize(rows[i : i + 7], kind) for i in range(0, 40, 7)]
        assert np.array_equal(whole.reshape(-1), np.concatenate(parts))
