"""What the training step receives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = -100


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Several cases laid end to end; attention stays within each (``T`` tokens, ``N`` segments).

    ```
    token_ids_T    c0 c0 c0 c0 | c1 c1 | c2 c2 c2 | pad pad
    position_ids_T  0  1  2  3 |  0  1 |  0  1  2 |  0   1
    labels_T       -- t2 t3 -- | t1 -- | t1 t2 -- | --  --      (-- is IGNORE_INDEX)
    cu_seqlens      0             4      6          9      11
    ```

    Attributes:
        token_ids_T: int64.
        labels_T: int64; the *next* token where it is a target, else ``IGNORE_INDEX``. Already
            shifted: ``labels_T[t]`` is predicted by the hidden state of position ``t``.
        position_ids_T: int64; counts from 0 within each segment.
        cu_seqlens: int32, ``N + 1``: where each segment starts, and the end of the last. Padding
            is a segment of its own.
        max_seqlen: Longest segment.
        num_targets: Labels that are not ``IGNORE_INDEX``.
        case_ids: The cases in their order, padding left out.
    """

    token_ids_T: NDArray[np.int64]
    labels_T: NDArray[np.int64]
    position_ids_T: NDArray[np.int64]
    cu_seqlens: NDArray[np.int32]
    max_seqlen: int
    num_targets: int
    case_ids: tuple[str, ...]
