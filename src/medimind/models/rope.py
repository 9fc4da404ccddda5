"""Rotary position embedding: frequencies and the tables of cosines and sines.

Shapes: ``T`` tokens, ``K`` width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How the frequencies are stretched for longer contexts.

    Attributes:
        kind: ``llama3`` (long waves slower by ``factor``, smooth between the two borders),
            ``linear`` (all slower by ``factor``) or ``factors`` (each by its own, as GGUF files
            store it in ``rope_freqs.weight``).
        factor: Of ``llama3`` and ``linear``.
        low_frequency_factor: Waves longer than ``original_max_positions`` over this are stretched.
        high_frequency_factor: Waves shorter than ``original_max_positions`` over this are kept.
        original_max_positions: Context length before stretching.
        factors: Of ``factors``; ``K / 2`` divisors.
    """

    kind: str
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_max_positions: int = 8192
    factors: tuple[float, ...] = ()


def inverse_frequencies(
    head_dim: int, *, theta: float, scaling: RopeScaling | None
) -> torch.Tensor:
    """Radians a position, per pair of channels.

    Su et al., 2021 (arXiv 2104.09864), section 3.2.2; ``llama3`` as Meta's model code has it.

    Returns:
        float32, ``(K / 2,)`` on the CPU.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequency = 1.0 / (theta**exponent)
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    if scaling.kind == "factors":
        return frequency / torch.tensor(scaling.factors, dtype=torch.float32)
    low_wavelength = scaling.original_max_positions / scaling.low_frequency_factor
    high_wavelength = scaling.original_max_positions / scaling.high_frequency_factor
    wavelength = 2 * math.pi / frequency
    smooth = (scaling.original_max_positions / wavelength - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    between = (1 - smooth) * frequency / scaling.factor + smooth * frequency
    stretched = torch.where(wavelength > low_wavelength, frequency / scaling.factor, frequency)
    is_between = (wavelength <= low_wavelength) & (wavelength >= high_wavelength)
    return torch.where(is_between, between, stretched)


def rotary_tables(
    position_ids_T: torch.Tensor, inverse_frequency: torch.Tensor, *, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of each token; the second half of ``K`` repeats the first.

    Returns:
        ``cos_TK`` and ``sin_TK`` in ``dtype``; angles are made in float32.
    """
    angle_TK2 = position_ids_T.to(torch.float32).unsqueeze(-1) * inverse_frequency
    angle_TK = torch.cat((angle_TK2, angle_TK2), dim=-1)
    return angle_TK.cos().to(dtype), angle_TK.sin().to(dtype)
