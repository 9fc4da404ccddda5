"""Outputs grown step by step on a card, with the host one step behind.

The next step is launched before the host reads this step's tokens, so that texts are put together
while the card computes:

```
card   | step 1 | step 2 | step 3 |
host            | read 1 | read 2 |        a row that ended in step 1 is computed once too often
```

Tokens that are forced (the end of a thinking budget) are known one step before: what is pushed in
step 1 decides about step 2, which is not launched yet.

``B`` rows, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from medimind.models.cache import KvCache
from medimind.models.graph_decode.decoder import GraphDecoder, bucket
from medimind.models.output_row import OutputRow
from medimind.models.sampling import check_tokens, choose_tokens


@torch.no_grad()
def decode_rows(
    card: GraphDecoder,
    rows: Sequence[OutputRow],
    logits_BV: torch.Tensor,
    *,
    cache: KvCache,
    generators: Sequence[torch.Generator],
    temperature: float,
    top_p: float,
) -> Iterator[list[OutputRow]]:
    """Fill the rows; each step gives those that ended with it.

    Args:
        card: Made the cache.
        rows: Empty outputs.
        logits_BV: Of the prompts' last tokens.
        cache: Has read the prompts.
        generators: One for each row.
        temperature: See ``choose_tokens``.
        top_p: See ``choose_tokens``.

    Raises:
        NonFiniteError: The logits became NaN or infinite.
    """
    rows, generators = list(rows), list(generators)
    card.begin(cache)
    chosen_B = choose_tokens(logits_BV, temperature=temperature, top_p=top_p, generators=generators)
    while True:
        ids_B = _forced(chosen_B, rows)
        host_B, ready = _to_host(ids_B)
        if all(row.takes_its_last for row in rows):
            if ready is not None:
                ready.synchronize()
            yield _push(rows, check_tokens(host_B))
            return
        at = card.step(ids_B)
        cache.advance(1)
        if temperature > 0:
            chosen_B = choose_tokens(
                at.logits_BV[: len(rows)].float(),
                temperature=temperature,
                top_p=top_p,
                generators=generators,
            )
        else:
            chosen_B = at.likeliest_B[: len(rows)]
        if ready is not None:
            ready.synchronize()
        yield _push(rows, check_tokens(host_B))
        open_rows = [index for index, row in enumerate(rows) if row.finish_reason is None]
        if not open_rows:
            return
        if bucket(len(open_rows)) < bucket(len(rows)):
            cache.keep(open_rows)
            chosen_B = chosen_B[torch.tensor(open_rows, device=chosen_B.device)]
            rows = [rows[index] for index in open_rows]
            generators = [generators[index] for index in open_rows]
            card.begin(cache)


def _forced(chosen_B: torch.Tensor, rows: Sequence[OutputRow]) -> torch.Tensor:
    """The tokens to read: those that a row must take in the place of those that were chosen."""
    forced = [row.forced for row in rows]
    if not any(token is not None for token in forced):
        return chosen_B.clone()
    values = [-1 if token is None else token for token in forced]
    forced_B = torch.tensor(values).to(chosen_B.device, non_blocking=True)
    return torch.where(forced_B >= 0, forced_B, chosen_B)


def _to_host(ids_B: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """The tokens on the host as soon as the event has happened."""
    if not ids_B.is_cuda:
        return ids_B, None
    host_B = torch.empty(ids_B.shape, dtype=ids_B.dtype, pin_memory=True)
    host_B.copy_(ids_B, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return host_B, ready


def _push(rows: Sequence[OutputRow], ids: Sequence[int]) -> list[OutputRow]:
    ended = []
    for row, token_id in zip(rows, ids, strict=True):
        if row.finish_reason is None:
            row.push(token_id)
            if row.finish_reason is not None:
                ended.append(row)
    return ended
