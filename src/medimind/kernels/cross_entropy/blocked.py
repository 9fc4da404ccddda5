"""Linear cross-entropy in blocks of the vocabulary, for CPUs: loss and gradient in one sweep.

As attention is computed without its square (Dao et al., 2022, arXiv 2205.14135, algorithm 1), so is
this: the logits of one block of the vocabulary are made, turned into ``exp(logit - peak)`` and
multiplied by the same block of the head while both are in the cache. When a later block raises a
row's peak, what was summed is scaled down. The head is read once, and no logits are written out:

```
for each block W_b of the head:          logits_b = h W_b^T
    new  = max(peak, max logits_b)       E        = exp(logits_b - new)
    mass = mass * exp(peak - new) + sum E
    mean = mean * exp(peak - new) + E W_b
loss = log(mass) + peak - logit[target]          gradient = mean / mass - W[target]
```

Shapes: ``N`` targets, ``D`` model width, ``V`` vocabulary, ``B`` entries of a block.
"""

from __future__ import annotations

import torch

_BLOCK_ENTRIES = 1 << 20
_LEAST, _MOST = 512, 4096


def block_size(num_rows: int) -> int:
    """Vocabulary entries of a block: its logits take about 4 MiB."""
    return min(max(_BLOCK_ENTRIES // max(num_rows, 1) // 64 * 64, _LEAST), _MOST)


def blocked_cross_entropy(
    hidden_ND: torch.Tensor, head_VD: torch.Tensor, targets_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each target ``(N,)`` and the gradient ``(N, D)`` of their sum; float32."""
    num_rows, size = hidden_ND.shape[0], block_size(hidden_ND.shape[0])
    mean_ND = torch.zeros_like(hidden_ND)
    peak_N1 = hidden_ND.new_full((num_rows, 1), float("-inf"))
    mass_N1 = torch.zeros_like(peak_N1)
    buffer = hidden_ND.new_empty(num_rows * size)
    for start in range(0, head_VD.shape[0], size):
        block_BD = head_VD[start : start + size]
        logits_NB = buffer[: num_rows * block_BD.shape[0]].view(num_rows, len(block_BD))
        torch.mm(hidden_ND, block_BD.t(), out=logits_NB)
        new_N1 = torch.maximum(peak_N1, logits_NB.amax(dim=1, keepdim=True))
        shrink_N1 = peak_N1.sub_(new_N1).exp_()
        logits_NB.sub_(new_N1).exp_()
        mass_N1.mul_(shrink_N1).add_(logits_NB.sum(dim=1, keepdim=True))
        if start:
            mean_ND.mul_(shrink_N1)
        mean_ND.addmm_(logits_NB, block_BD)
        peak_N1 = new_N1
    rows_ND = head_VD.index_select(0, targets_N)
    picked_N = torch.linalg.vecdot(hidden_ND, rows_ND)
    losses_N = (mass_N1.log() + peak_N1).squeeze(1) - picked_N
    return losses_N, mean_ND.div_(mass_N1).sub_(rows_ND)
