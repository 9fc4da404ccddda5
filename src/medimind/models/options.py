"""Log-probabilities of given continuations, many questions in one pass.

Each prompt is read once, packed end to end with the others. Where a continuation has more than one
token, a second pass reads all but its last: the continuations of a prompt lie side by side in one
row, and each sees its prompt and itself alone.

```
             prompt        b1 b2 | c1
    b1       x x x x       x     |
    b2       x x x x       x  x  |
    c1       x x x x             | x
```

Legend: N prompts, M continuations of all of them, S tokens of a row's continuations, C columns,
D model width, V vocabulary, L tokens of the second pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from medimind.models.cache import KvCache
from medimind.models.decoder import Decoder
from medimind.models.load import Model
from medimind.models.reading import check_prompts, evaluating, new_cache, read_prompts

logger = logging.getLogger(__name__)

_TOKENS_PER_PASS = {"cpu": 2048, "cuda": 16384}
_LOGIT_ROWS = 256


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt and what may follow it, as token ids."""

    prompt_ids: Sequence[int]
    continuations: Sequence[Sequence[int]]


class Score(NamedTuple):
    """Sum of the log-probabilities (nats) of a continuation's tokens.

    ``is_greedy`` tells whether each token is the likeliest one in its place.
    """

    logprob: float
    is_greedy: bool


def option_logprobs(
    model: Model,
    choices: Sequence[Choice],
    *,
    tokens_per_pass: int | None = None,
    on_logprobs: Callable[[int, list[float]], None] | None = None,
) -> list[list[float]]:
    """Log-probability (nats) of each continuation, as `continuation_scores`."""

    def tell(index: int, scores: list[Score]) -> None:
        if on_logprobs is not None:
            on_logprobs(index, [score.logprob for score in scores])

    found = continuation_scores(model, choices, tokens_per_pass=tokens_per_pass, on_scores=tell)
    return [[score.logprob for score in scores] for scores in found]


@torch.no_grad()
def continuation_scores(
    model: Model,
    choices: Sequence[Choice],
    *,
    tokens_per_pass: int | None = None,
    on_scores: Callable[[int, list[Score]], None] | None = None,
) -> list[list[Score]]:
    """The score of each continuation, in the order of the choices.

    What a choice gets does not depend on the others, up to the rounding of batched arithmetic.
    Where the memory does not suffice for a pass, smaller ones are made.

    Args:
        model: The model, with or without an adapter.
        choices: What is asked; prompts need not be of one length.
        tokens_per_pass: Tokens read at once; a longer choice goes alone. ``None`` takes what suits
            the device.
        on_scores: Called with the number of a choice and its scores as soon as they are there.

    Raises:
        PromptError: A prompt or a continuation is empty, too long, or of another tokenizer.
    """
    for choice in choices:
        longest = max(choice.continuations, key=len, default=())
        check_prompts(
            model,
            [choice.prompt_ids, *choice.continuations, [*choice.prompt_ids, *longest]],
        )
    found: dict[int, list[Score]] = {
        index: [] for index, choice in enumerate(choices) if not choice.continuations
    }
    room = tokens_per_pass or _TOKENS_PER_PASS.get(model.decoder.device.type, 2048)
    # Long ones first: if the memory does not suffice, that shows at once.
    waiting = sorted(
        (index for index in range(len(choices)) if index not in found),
        key=lambda index: -len(choices[index].prompt_ids),
    )
    with evaluating(model.decoder):
        while waiting:
            batch = _batch(choices, waiting, room=room)
            try:
                scores = _scores(model.decoder, [choices[index] for index in batch])
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                room = sum(_num_tokens(choices[index]) for index in batch) // 2
                torch.cuda.empty_cache()
                logger.warning("out of memory: going on with %d tokens at once", room)
                continue
            waiting = waiting[len(batch) :]
            for index, some in zip(batch, scores, strict=True):
                found[index] = some
                if on_scores is not None:
                    on_scores(index, some)
    return [found[index] for index in range(len(choices))]


def _num_tokens(choice: Choice) -> int:
    return len(choice.prompt_ids) + sum(len(ids) - 1 for ids in choice.continuations)


def _batch(choices: Sequence[Choice], waiting: Sequence[int], *, room: int) -> list[int]:
    """The first of those waiting that fit together; always one."""
    batch = [waiting[0]]
    used = _num_tokens(choices[waiting[0]])
    for index in waiting[1:]:
        used += _num_tokens(choices[index])
        if used > room:
            break
        batch.append(index)
    return batch


def _scores(decoder: Decoder, batch: Sequence[Choice]) -> list[list[Score]]:
    """Scores of all choices of one pass."""
    lengths = [len(choice.prompt_ids) for choice in batch]
    num_more = max(_num_tokens(choice) - len(choice.prompt_ids) for choice in batch)
    cache = new_cache(decoder, lengths, capacity=max(lengths) + num_more) if num_more else None
    hidden_ND = read_prompts(decoder, [choice.prompt_ids for choice in batch], cache)
    row_M = [row for row, choice in enumerate(batch) for _ in choice.continuations]
    first_M = [ids[0] for choice in batch for ids in choice.continuations]
    device = decoder.device
    logits_NV = decoder.logits(hidden_ND)
    sums_M, others_M = _token_scores(
        logits_NV, torch.tensor(row_M, device=device), torch.tensor(first_M, device=device)
    )
    if cache is not None:
        _add_the_rest(decoder, batch, cache, num_more, sums_M, others_M)
    # One transfer for all of them; a sum is exact enough in the float64 that users get.
    values = zip(sums_M.double().tolist(), (others_M == 0).tolist(), strict=True)
    return [[Score(*next(values)) for _ in choice.continuations] for choice in batch]


def _token_scores(logits_NV: Tensor, row_M: Tensor, token_M: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each token in the logits of its row, and 1 where another is likelier."""
    logprob_M = logits_NV[row_M, token_M] - logits_NV.logsumexp(dim=-1)[row_M]
    return logprob_M, (logits_NV.argmax(dim=-1)[row_M] != token_M).to(torch.int64)


def _add_the_rest(
    decoder: Decoder,
    batch: Sequence[Choice],
    cache: KvCache,
    num_more: int,
    sums_M: Tensor,
    others_M: Tensor,
) -> None:
    """Add what the tokens after the first give, in place."""
    device = decoder.device
    token_NS, branch_NS, depth_NS = (
        torch.tensor(rows, device=device) for rows in _side_by_side(batch, num_more)
    )
    start_N1 = cache.start_B[:, None]
    prompt_NC = torch.arange(cache.length, device=device) >= start_N1
    own_NSS = (branch_NS[:, :, None] == branch_NS[:, None, :]) & (
        depth_NS[:, None, :] <= depth_NS[:, :, None]
    )
    mask_NSC = torch.cat((prompt_NC[:, None, :].expand(-1, num_more, -1), own_NSS), dim=-1)
    hidden_NSD = decoder.forward_cached(
        token_NS,
        cache=cache,
        position_ids_BS=cache.length - start_N1 + depth_NS,
        mask_B1SC=mask_NSC[:, None],
    )
    places = list(_later_tokens(batch))
    row_L, column_L, token_L, of_L = torch.tensor(places, device=device).T
    for start in range(0, len(places), _LOGIT_ROWS):
        part = slice(start, start + _LOGIT_ROWS)
        logits_LV = decoder.logits(hidden_NSD[row_L[part], column_L[part]])
        every_L = torch.arange(len(logits_LV), device=device)
        logprob_L, other_L = _token_scores(logits_LV, every_L, token_L[part])
        sums_M.index_add_(0, of_L[part], logprob_L)
        others_M.index_add_(0, of_L[part], other_L)


def _side_by_side(
    batch: Sequence[Choice], num_more: int
) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Of each row: what is read, which continuation it belongs to, and its place there.

    What fills a row up belongs to no continuation, and sees itself and the prompt.
    """
    tokens, branches, depths = [], [], []
    for choice in batch:
        read = [ids[:-1] for ids in choice.continuations]
        fill = [0] * (num_more - sum(map(len, read)))
        tokens.append([token for ids in read for token in ids] + fill)
        branches.append(
            [branch for branch, ids in enumerate(read) for _ in ids] + [-1 for _ in fill]
        )
        depths.append([depth for ids in read for depth in range(len(ids))] + fill)
    return tokens, branches, depths


def _later_tokens(batch: Sequence[Choice]) -> Iterator[tuple[int, int, int, int]]:
    """Row and column that foretell a token, the token, and which of the M continuations it is of.

    Tokens after the first alone.
    """
    number = 0
    for row, choice in enumerate(batch):
        column = 0
        for ids in choice.continuations:
            for token in ids[1:]:
                yield row, column, token, number
                column += 1
            number += 1
