"""How much an output repeats itself."""

from __future__ import annotations

from collections.abc import Sequence

_NGRAM = 4
_MIN_REPEATS = 3
_MIN_LOOP_TOKENS = 16


def repeated_share(token_ids: Sequence[int], *, ngram: int = _NGRAM) -> float:
    """Share of the 4-grams that occurred before in the same output; 0 for a shorter output."""
    total = len(token_ids) - ngram + 1
    if total <= 0:
        return 0.0
    distinct = {tuple(token_ids[start : start + ngram]) for start in range(total)}
    return 1 - len(distinct) / total


def loop_length(token_ids: Sequence[int]) -> int:
    """Tokens of the longest ending that repeats one unit at least three times, else 0.

    ```
    a b c d  e f g  e f g  e f g  e f        unit e f g, loop of 11 tokens
    ```
    A loop shorter than 16 tokens does not count: lists and dashes are not loops. The unit of each
    ending is found from the border table of the reversed output (Knuth, Morris & Pratt, 1977), in
    linear time.
    """
    backwards = list(reversed(token_ids))
    border = [0] * len(backwards)
    longest = matched = 0
    for end in range(1, len(backwards)):
        while matched and backwards[end] != backwards[matched]:
            matched = border[matched - 1]
        matched += backwards[end] == backwards[matched]
        border[end] = matched
        length = end + 1
        if length >= _MIN_LOOP_TOKENS and length >= _MIN_REPEATS * (length - matched):
            longest = length
    return longest
