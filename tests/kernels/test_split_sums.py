"""The norm after a product in stretches: Triton against the reference, on odd shapes."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_close

from medimind.kernels.split_sums import reference


@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 5, 576), (8, 130, 1000)])
def test_the_stream_grows_by_the_sum_and_is_normed(shape, dtype, device):
    from medimind.kernels.split_sums import forward

    splits, rows, width = shape
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(splits, rows, width, generator=generator)
    weight = torch.rand(width, generator=generator).to(dtype)
    stream = torch.randn(rows, width, generator=generator).to(dtype)
    results = []
    for kind in (dtype, torch.float64):
        streams = stream.to(kind, copy=True)
        normed = torch.empty(rows, width, dtype=kind)
        reference.sum_norm(
            parts.to(torch.float32 if kind == dtype else kind),
            weight.to(kind),
            eps=1e-5,
            residual_BD=streams,
            normed_out=normed,
        )
        results.append((streams, normed))
    found = stream.to(device, copy=True)
    wide = torch.full((rows, width + 8), torch.nan, dtype=dtype, device=device)
    forward.sum_norm(
        parts.to(device),
        weight.to(device),
        eps=1e-5,
        residual_BD=found,
        normed_out=wide[:, :width],
    )
    assert_close(found, results[1][0], results[0][0])
    assert_close(wide[:, :width], results[1][1], results[0][1])
    assert wide[:, width:].isnan().all()
