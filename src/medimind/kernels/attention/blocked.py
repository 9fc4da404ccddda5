"""Causal attention as plain matrix products, for CPUs: forward and backward.

Queries are taken in blocks; a block looks at the keys up to its own end, so about half of the
square is never computed. The query heads that share a key head are rows of one product:

```
keys      0 ......... a ... b
block     [ all visible | own ]     rows: (token a..b, head of the group), R heads a token
```

On two Zen 3 cores the products run near the machine's peak, where torch's flash kernel for CPUs
reaches half of it (``docs/notes/cpu_training.md``). Shapes: ``T`` tokens, ``G`` key/value heads,
``R`` query heads of each, ``Q = T * R`` rows, ``K`` width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

Bounds = Sequence[tuple[int, int]]
_ROWS = 320


def block_length(heads_per_group: int) -> int:
    """Tokens of a query block: enough rows for fast products, little waste above the diagonal."""
    return min(max(_ROWS // heads_per_group, 64), 192)


def _blocks(bounds: Bounds, length: int) -> Iterator[tuple[int, int, int]]:
    """``(segment start, block start, block end)``."""
    for start, end in bounds:
        for first in range(start, end, length):
            yield start, first, min(first + length, end)


def num_probabilities(bounds: Bounds, *, groups: int, heads_per_group: int) -> int:
    """Entries of all blocks, what keeping them for the backward takes."""
    blocks = _blocks(bounds, block_length(heads_per_group))
    return groups * heads_per_group * sum((b - a) * (b - start) for start, a, b in blocks)


def largest_block(bounds: Bounds, *, groups: int, heads_per_group: int) -> int:
    """Entries of the largest block, the scratch room needed when nothing is kept."""
    length = block_length(heads_per_group)
    largest = max((min(b - a, length) * (b - a) for a, b in bounds), default=0)
    return groups * heads_per_group * largest


def _causal_mask(heads_per_group: int, like: torch.Tensor) -> torch.Tensor:
    """What is added to the scores of a block with its own tokens: 0 or minus infinity."""
    length = block_length(heads_per_group)
    mask = torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device)
    return mask.triu_(1).repeat_interleave(heads_per_group, dim=0)


def _softmax_scores(
    q_GQK: torch.Tensor, k_GCK: torch.Tensor, mask: torch.Tensor, *, own: int, out: torch.Tensor
) -> None:
    """Probabilities of one block over its ``C`` keys, of which the last ``own`` are its own."""
    for q_QK, k_CK, scores_QC in zip(q_GQK, k_GCK, out, strict=True):
        torch.mm(q_QK, k_CK.t(), out=scores_QC)
    out[:, :, out.shape[2] - own :].add_(mask[: q_GQK.shape[1], :own])
    torch.softmax(out, dim=-1, out=out)


def blocked_attention(
    q_GQK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    *,
    bounds: Bounds,
    out_GQK: torch.Tensor,
    scratch: torch.Tensor,
    keep: bool,
) -> None:
    """Write the attention output.

    Args:
        q_GQK: Queries, already scaled; row ``t * R + r`` of a group is head ``r`` of token ``t``.
        k_TGK: Keys.
        v_TGK: Values.
        bounds: Start and end of each segment.
        out_GQK: Takes the output.
        scratch: Flat; ``num_probabilities`` entries with ``keep``, else ``largest_block``.
        keep: Leave the probabilities in ``scratch`` for the backward.
    """
    groups, per = q_GQK.shape[0], q_GQK.shape[1] // k_TGK.shape[0]
    k_GTK, v_GTK = k_TGK.transpose(0, 1), v_TGK.transpose(0, 1)
    mask, offset = _causal_mask(per, q_GQK), 0
    for start, a, b in _blocks(bounds, block_length(per)):
        rows, seen, span = (b - a) * per, slice(start, b), slice(a * per, b * per)
        size = groups * rows * (b - start)
        prob_GQC = scratch[offset : offset + size].view(groups, rows, b - start)
        offset += size if keep else 0
        _softmax_scores(q_GQK[:, span], k_GTK[:, seen], mask, own=b - a, out=prob_GQC)
        torch.bmm(prob_GQC, v_GTK[:, seen], out=out_GQK[:, span])


def blocked_attention_backward(
    grad_GQK: torch.Tensor,
    q_GQK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    *,
    bounds: Bounds,
    grad_q_GQK: torch.Tensor,
    grad_k_TGK: torch.Tensor,
    grad_v_TGK: torch.Tensor,
    scratch: torch.Tensor,
    scratch_grad: torch.Tensor,
    kept: bool,
) -> None:
    """Write the gradients of queries (as scaled), keys and values.

    With ``P`` the probabilities: ``dV = P^T dO``, ``dP = dO V^T``,
    ``dS = P (dP - rowsum(dP P))``, ``dQ = dS K``, ``dK = dS^T Q``.

    Args:
        grad_GQK: Gradient of the output.
        q_GQK: As in the forward.
        k_TGK: As in the forward.
        v_TGK: As in the forward.
        bounds: As in the forward.
        grad_q_GQK: Takes the gradient of ``q_GQK``.
        grad_k_TGK: Takes the gradient of the keys.
        grad_v_TGK: Takes the gradient of the values.
        scratch: As in the forward; with ``kept`` it still holds the probabilities.
        scratch_grad: Flat, ``largest_block`` entries.
        kept: Whether the forward kept the probabilities; else they are computed again.
    """
    groups, per = q_GQK.shape[0], q_GQK.shape[1] // k_TGK.shape[0]
    k_GTK, v_GTK = k_TGK.transpose(0, 1), v_TGK.transpose(0, 1)
    grad_k_GTK, grad_v_GTK = grad_k_TGK.transpose(0, 1), grad_v_TGK.transpose(0, 1)
    grad_k_GTK.zero_()
    grad_v_GTK.zero_()
    mask, offset = _causal_mask(per, q_GQK), 0
    for start, a, b in _blocks(bounds, block_length(per)):
        rows, seen, span = (b - a) * per, slice(start, b), slice(a * per, b * per)
        shape, size = (groups, rows, b - start), groups * rows * (b - start)
        prob_GQC = scratch[offset : offset + size].view(shape)
        offset += size if kept else 0
        if not kept:
            _softmax_scores(q_GQK[:, span], k_GTK[:, seen], mask, own=b - a, out=prob_GQC)
        out_grad_GQK, v_GCK = grad_GQK[:, span], v_GTK[:, seen]
        grad_GQC = scratch_grad[:size].view(shape)
        for group in range(groups):
            torch.mm(out_grad_GQK[group], v_GCK[group].t(), out=grad_GQC[group])
        grad_v_GTK[:, seen].baddbmm_(prob_GQC.transpose(1, 2), out_grad_GQK)
        torch.ops.aten._softmax_backward_data.out(
            grad_GQC, prob_GQC, -1, grad_GQC.dtype, grad_input=grad_GQC
        )
        torch.bmm(grad_GQC, k_GTK[:, seen], out=grad_q_GQK[:, span])
        grad_k_GTK[:, seen].baddbmm_(grad_GQC.transpose(1, 2), q_GQK[:, span])
