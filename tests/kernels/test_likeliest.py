"""The likeliest token: Triton against torch, with ties and what is not finite."""

from __future__ import annotations

import pytest
import torch

from medimind.kernels.likeliest import reference


@pytest.mark.parametrize("width", [1, 77, 20_000])
def test_the_highest_logit_is_found(width, dtype, device):
    from medimind.kernels.likeliest import forward

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, width + 3, generator=generator).to(dtype)[:, :width]
    logits[1].fill_(0.5)
    logits[2, width // 2] = torch.nan
    logits[3, width - 1] = torch.inf
    logits[4].fill_(-torch.inf)
    logits[5, : width - 1] = -torch.inf
    logits[6, [width // 3, width // 2, width - 1]] = 50.0
    found = torch.full((9,), 7, dtype=torch.int64, device=device)
    forward.likeliest(logits.to(device), out_B=found)
    expected = torch.empty(9, dtype=torch.int64)
    reference.likeliest(logits, out_B=expected)
    rows = [0, *range(2, 9)]
    highest = logits.nan_to_num().gather(1, expected.clamp(min=0)[:, None])
    same = logits.nan_to_num().gather(1, found.cpu().clamp(min=0)[:, None]) == highest
    assert same[rows].all()
    assert (found.cpu() == -1).tolist() == (expected == -1).tolist()
    assert found[1] == 0
    assert found[6] == width // 3
