"""Cases packed into batches.

Several cases share a batch without seeing each other. Attention is causal within a segment and
nothing across (``c`` a case, ``.`` nothing):

```
            key   c0 c0 c0 | c1 c1 | c2 c2
query  c0          1  .  . |  .  . |  .  .
       c0          1  1  . |  .  . |  .  .
       c0          1  1  1 |  .  . |  .  .
       c1          .  .  . |  1  . |  .  .
       c1          .  .  . |  1  1 |  .  .
       c2          .  .  . |  .  . |  1  .
       c2          .  .  . |  .  . |  1  1
cu_seqlens         0          3       5       7
labels             t1 t2 -- | t1 -- | t1 --
```
The last position of a segment has no label: its next token belongs to another case.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medimind.errors import PackingError
from medimind.packing.batch import IGNORE_INDEX, PackedBatch
from medimind.prompts.prompt import Prompt

PAD_TOKEN_ID = 0  # any valid id: a padding position is never a label nor seen by a case


def pack(
    prompts: Sequence[Prompt], *, tokens_per_batch: int, pad_to: int | None = None
) -> list[PackedBatch]:
    """Batches that hold every prompt once and whole; the same for the same prompts.

    Best-fit decreasing (Johnson et al., 1974): the longest first, each into the fullest batch that
    still has room. Within a batch, and among batches, cases keep their order.

    Args:
        prompts: Rendered cases.
        tokens_per_batch: Most tokens of a batch.
        pad_to: Fixed size of every batch (CUDA graphs want one shape); the rest is padding, a
            segment of its own. ``None`` adds none.

    Raises:
        PackingError: If a prompt is longer than a batch; none is ever cut.
    """
    if pad_to is not None and pad_to < tokens_per_batch:
        raise PackingError(
            f"pad_to ({pad_to}) is smaller than tokens_per_batch ({tokens_per_batch})"
        )
    lengths = [len(prompt.token_ids_S) for prompt in prompts]
    too_long = [i for i, length in enumerate(lengths) if length > tokens_per_batch]
    if too_long:
        raise PackingError(
            f"{lengths[too_long[0]]} tokens do not fit into a batch of {tokens_per_batch}",
            where=prompts[too_long[0]].case_id,
            fix="Raise train.micro_batch_tokens, or lower train.max_length to leave such rows out",
        )
    bins = best_fit_decreasing(lengths, capacity=tokens_per_batch)
    return [_batch([prompts[i] for i in indices], pad_to=pad_to) for indices in bins]


def best_fit_decreasing(lengths: Sequence[int], *, capacity: int) -> list[list[int]]:
    """Indices of ``lengths`` in bins of at most ``capacity``; O(n log n) comparisons."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free, bin), sorted
    for index in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        length = lengths[index]
        place = bisect_left(room, (length, -1))
        if place == len(room):
            free, chosen = capacity, len(bins)
            bins.append([])
        else:
            free, chosen = room.pop(place)
        bins[chosen].append(index)
        insort(room, (free - length, chosen))
    return sorted(sorted(indices) for indices in bins)


def _batch(prompts: Sequence[Prompt], *, pad_to: int | None) -> PackedBatch:
    token_ids_T = np.concatenate([prompt.token_ids_S for prompt in prompts]).astype(np.int64)
    is_target_T = np.concatenate([prompt.is_target_S for prompt in prompts])
    lengths = [len(prompt.token_ids_S) for prompt in prompts]
    if pad_to is not None and pad_to > len(token_ids_T):
        lengths.append(pad_to - len(token_ids_T))
        token_ids_T = np.pad(token_ids_T, (0, lengths[-1]), constant_values=PAD_TOKEN_ID)
        is_target_T = np.pad(is_target_T, (0, lengths[-1]))
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    labels_T = _labels(token_ids_T, is_target_T, cu_seqlens)
    starts_T = np.repeat(cu_seqlens[:-1].astype(np.int64), lengths)
    return PackedBatch(
        token_ids_T=token_ids_T,
        labels_T=labels_T,
        position_ids_T=np.arange(len(token_ids_T), dtype=np.int64) - starts_T,
        cu_seqlens=cu_seqlens,
        max_seqlen=max(lengths),
        num_targets=int(np.count_nonzero(labels_T != IGNORE_INDEX)),
        case_ids=tuple(prompt.case_id for prompt in prompts),
    )


def _labels(
    token_ids_T: NDArray[np.int64], is_target_T: NDArray[np.bool_], cu_seqlens: NDArray[np.int32]
) -> NDArray[np.int64]:
    labels_T = np.full_like(token_ids_T, IGNORE_INDEX)
    labels_T[:-1] = np.where(is_target_T[1:], token_ids_T[1:], IGNORE_INDEX)
    labels_T[cu_seqlens[1:] - 1] = IGNORE_INDEX
    return labels_T
