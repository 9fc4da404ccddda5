"""The shapes that batches are run with: rounded up, so that few of them come up.

Padding is computed too, and each shape is compiled, planned and captured for itself.
"""

from __future__ import annotations

from medimind.kernels.attention.forward import Backend

_SHORTEST = 512
_FEWEST = 8
_PARTS, _PARTS_UNCAPTURED = 16, 64


def padded_tokens(used: int, *, num_tokens: int, graph: bool) -> int:
    """Tokens of a batch with its padding: sixteenths of the most.

    Where no graph is made of a shape, 64ths.

    Args:
        used: Tokens of its rows.
        num_tokens: The most.
        graph: Whether graphs are captured.
    """
    part = -(-num_tokens // (_PARTS if graph else _PARTS_UNCAPTURED))
    return min(num_tokens, -(-used // part) * part)


def padded_segments(
    count: int, longest: int, *, num_tokens: int, backend: Backend, graph: bool
) -> tuple[int, int]:
    """Number of segments and length of the longest that rows of unlike lengths are run with.

    Empty segments fill the number up. Flash clears and converts 128 rows more for each of them, so
    there are none without graphs; torch's memory-efficient kernel has room for a whole longest
    segment in each, so its numbers lie closer to each other.

    Args:
        count: Segments.
        longest: Tokens of the longest.
        num_tokens: Tokens of the batch.
        backend: The attention's.
        graph: Whether graphs are captured.
    """
    if backend == "reference":
        return count, longest
    if graph:
        count = _round_up(count, start=_FEWEST, factor=2 if backend == "efficient" else 4)
    if backend in ("tiled", "flash4", "flash4_loose"):  # the longest makes no difference to them
        return count, num_tokens
    return count, min(num_tokens, _round_up(longest, start=_SHORTEST, factor=2))


def _round_up(number: int, *, start: int, factor: int) -> int:
    """The least of ``start``, ``start * factor``, ... that is not below the number."""
    while start < number:
        start *= factor
    return start
