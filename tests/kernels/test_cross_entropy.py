"""Cross-entropy over rows of logits in Triton against autograd in float64."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_close

from medimind.kernels.cross_entropy import reference


@pytest.mark.parametrize("shape", [(1, 2), (3, 7), (5, 64), (4, 4099), (2, 9000)])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_cross_entropy(shape, scale, dtype, device):
    from medimind.kernels.cross_entropy.forward import cross_entropy_

    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(*shape, generator=generator) * scale).to(dtype).to(device)
    targets = torch.randint(0, shape[1], (shape[0],), generator=generator).to(device)
    targets[shape[0] // 2 + 1 :: 2] = -100
    leaf = logits.double().requires_grad_()
    exact = torch.nn.functional.cross_entropy(leaf, targets, reduction="none", ignore_index=-100)
    (exact_grad,) = torch.autograd.grad(exact.sum(), leaf)

    plain, plain_losses = logits.clone(), torch.empty(shape[0], device=device)
    reference.cross_entropy_(plain, targets, losses_out=plain_losses)
    wide = torch.full((shape[0], shape[1] + 3), torch.nan, dtype=dtype, device=device)
    found = wide[:, : shape[1]].copy_(logits)
    losses = torch.full((shape[0],), torch.nan, device=device)
    cross_entropy_(found, targets, losses_out=losses)
    assert_close(losses, exact.detach(), plain_losses)
    assert_close(found, exact_grad, plain)
    assert wide[:, shape[1] :].isnan().all()
