"""The two code tables of NF4: 16 values for weights, 256 for the scales of the scales.

They are bitsandbytes' tables bit for bit, as an adapter trained over these weights must meet the
same weights there.
"""

from __future__ import annotations

from functools import cache

import torch

GRID = 65_536
"""Places of the grid that bitsandbytes' CPU code rounds to before it looks up an 8-bit code."""

NF4_CODE = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""Quantiles of a normal distribution, scaled to [-1, 1] (Dettmers et al., 2023, appendix E)."""


@cache
def nf4_code(device: torch.device) -> torch.Tensor:
    """The 16 values a 4-bit index stands for (fp32)."""
    return torch.tensor(NF4_CODE, dtype=torch.float32, device=device)


@cache
def nf4_bounds(device: torch.device) -> torch.Tensor:
    """The 15 midpoints between neighbouring values (fp32); a value on one takes the lower."""
    code = nf4_code(device)
    return (code[:-1] + code[1:]) / 2


@cache
def nf4_pairs(device: torch.device) -> torch.Tensor:
    """What each packed byte stands for: 256 x 2 (fp32), the high half first."""
    code = nf4_code(device)
    return torch.stack([code.repeat_interleave(16), code.repeat(16)], dim=1)


@cache
def dynamic_code(device: torch.device) -> torch.Tensor:
    """The 256 values of the dynamic 8-bit type, rising (fp32; Dettmers, 2016).

    A sign, up to seven leading zeros as a decimal exponent, and the bits left as a fraction:
    decade ``10^(i - 6)`` holds the midpoints of ``2^i`` equal parts of [0.1, 1], for both signs,
    with 0 and 1.0 added. The arithmetic is in the order that gives bitsandbytes' bits.
    """
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32)
        means = (edges[:-1] + edges[1:]) / 2.0
        values += (10 ** (i - 6) * means).tolist()
        values += (-(10 ** (i - 6)) * means).tolist()
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


@cache
def dynamic_bounds(device: torch.device) -> torch.Tensor:
    """The 255 midpoints between neighbouring dynamic codes (fp32)."""
    code = dynamic_code(device)
    return (code[:-1] + code[1:]) / 2


@cache
def grid_code_indices() -> torch.Tensor:
    """For each of ``GRID`` places from -1 to 1 the nearest dynamic code (uint8, CPU)."""
    places = torch.arange(GRID, dtype=torch.float32) / 32767.5 - 1
    return torch.bucketize(places, dynamic_bounds(torch.device("cpu"))).to(torch.uint8)
