"""Keys and values of the tokens read so far, for generation.

Rows end at the same column, so that a decoding step writes one column for all of them:

```
column        0   1   2   3   4 | 5   6  ...  capacity
row 0 (long)  a   b   c   d   e | f   g
row 1         -   -   -   p   q | r   s        start 3; "-" is never looked at
              prompts           | generated
```

Legend: L layers, B rows, G key/value heads, C columns in use, S new tokens per row, K head width,
T packed tokens, N prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medimind.kernels.availability import runs_triton


class KvCache:
    """Preallocated keys and values, (B, G, capacity, K) per layer.

    A forward pass over S new tokens per row asks for `position_ids` and `attention_mask` once,
    calls `append` in each layer, and `advance` at its end. The prompts come first, packed end to
    end, through `append_packed`.

    Args:
        num_layers: Layers of the decoder.
        lengths: Tokens of each row's prompt.
        num_kv_heads: Key/value heads.
        head_dim: Width of a head.
        capacity: Tokens the longest row may reach.
        dtype: Compute dtype.
        device: Where the tensors lie.
        memory: Keys and values of each layer to use, with at least this many rows and exactly
            this capacity; ``None`` makes them.
    """

    def __init__(
        self,
        num_layers: int,
        *,
        lengths: Sequence[int],
        num_kv_heads: int,
        head_dim: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device | str,
        memory: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    ) -> None:
        shape = (len(lengths), num_kv_heads, capacity, head_dim)
        self.device = torch.device(device)
        if memory is None:
            memory = (
                [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)],
                [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)],
            )
        self.keys, self.values = ([layer[: len(lengths)] for layer in kind] for kind in memory)
        self.capacity = capacity
        self.length = 0
        self._prompt_lengths = list(lengths)
        self._starts = [max(lengths) - length for length in lengths]
        self._places_T: tuple[Tensor, Tensor] | None = None
        self._index_starts()

    @property
    def start_B(self) -> Tensor:
        """Each row's first column, int64."""
        return self._start_B

    @property
    def num_rows(self) -> int:
        """Rows that are still there."""
        return len(self._starts)

    def position_ids(self, num_new: int) -> Tensor:
        """Position of each of the next tokens within its row, (B, S) int64."""
        offsets_S = torch.arange(num_new, device=self.device)
        return (self.length - self._start_B)[:, None] + offsets_S

    def attention_mask(self, num_new: int) -> Tensor | None:
        """Which columns the next tokens look at, (B, 1, S, C) bool; ``None`` means all of them.

        C counts the columns after the new tokens were appended.
        """
        if num_new == 1:
            if not any(self._starts):
                return None
            return self._visible_BC[:, None, None, : self.length + 1]
        columns_C = torch.arange(self.length + num_new, device=self.device)
        newest_S = torch.arange(self.length, self.length + num_new, device=self.device)
        causal_SC = columns_C <= newest_S[:, None]
        return causal_SC & self._visible_BC[:, None, None, : self.length + num_new]

    def append(self, layer: int, keys_BGSK: Tensor, values_BGSK: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new tokens of a layer.

        Returns:
            Views of all keys and values so far, the new ones last, each (B, G, C, K).
        """
        end = self.length + keys_BGSK.shape[2]
        if end > self.capacity:
            raise AssertionError(f"cache of {self.capacity} columns cannot take {end}")
        self.keys[layer][:, :, self.length : end] = keys_BGSK
        self.values[layer][:, :, self.length : end] = values_BGSK
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def append_packed(self, layer: int, keys_TGK: Tensor, values_TGK: Tensor) -> None:
        """Store a layer's keys and values of the packed prompts, in the order of the rows."""
        if self.length:
            raise AssertionError("prompts come first")
        row_T, column_T = self._places()
        if runs_triton(keys_TGK):
            from medimind.kernels.decode_attention.prompts import store_prompts

            store_prompts(
                keys_TGK, values_TGK, row_T, column_T, self.keys[layer], self.values[layer]
            )
            return
        self.keys[layer][row_T, :, column_T] = keys_TGK
        self.values[layer][row_T, :, column_T] = values_TGK

    def _places(self) -> tuple[Tensor, Tensor]:
        """Row and column of each token of the packed prompts."""
        if self._places_T is None:
            lengths = np.array(self._prompt_lengths)
            first = np.cumsum(lengths) - lengths
            row = np.repeat(np.arange(len(lengths)), lengths)
            column = np.arange(lengths.sum()) + np.repeat(np.array(self._starts) - first, lengths)
            row_T, column_T = (torch.from_numpy(places) for places in (row, column))
            self._places_T = row_T.to(self.device), column_T.to(self.device)
        return self._places_T

    def advance(self, num_new: int | None = None) -> None:
        """Count the appended tokens as read; without a number, the packed prompts."""
        self.length += max(self._prompt_lengths) if num_new is None else num_new

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these (ascending), in place and without new memory."""
        for tensors in (self.keys, self.values):
            for layer, tensor in enumerate(tensors):
                for new, old in enumerate(rows):
                    if new != old:
                        tensor[new, :, : self.length] = tensor[old, :, : self.length]
                tensors[layer] = tensor[: len(rows)]
        self._starts = [self._starts[row] for row in rows]
        self._prompt_lengths = [self._prompt_lengths[row] for row in rows]
        self._index_starts()

    def _index_starts(self) -> None:
        self._start_B = torch.tensor(self._starts, dtype=torch.int64, device=self.device)
        columns_C = torch.arange(self.capacity, device=self.device)
        self._visible_BC = columns_C >= self._start_B[:, None]
