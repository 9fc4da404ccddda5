"""Flash's gradients of groups of segments, side by side on streams of their own.

In a fixed order flash gives one multiprocessor all of a segment's head, unless heads times
segments are fewer than the multiprocessors: then several share one. Eight rows of 500 to 1,100
tokens with 32 heads are 256 such blocks of very different length for 132 multiprocessors, and a
third of the time most wait for the last. Groups of few segments are cut finer, and beside each
other they fill the gaps.

``T`` tokens, ``H`` query heads, ``G`` key/value heads, ``K`` head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch

_MOST_GROUPS = 3
"""With more segments there are blocks enough for one launch."""


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """Neighbouring segments.

    Attributes:
        rows: Their tokens.
        cu_seqlens: int32 offsets from the group's first token, on the tokens' device.
        max_seqlen: The longest.
    """

    rows: slice
    cu_seqlens: torch.Tensor
    max_seqlen: int


def make_groups(
    offsets: tuple[int, ...], *, num_heads: int, device: torch.device
) -> tuple[SegmentGroup, ...]:
    """The groups that are faster than all segments at once; none where nothing is gained."""
    if device.type != "cuda":
        return ()
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    found = []
    for first, last in split_segments(len(offsets) - 1, num_heads, processors):
        inside = offsets[first : last + 1]
        longest = max(b - a for a, b in pairwise(inside))
        own = torch.tensor([offset - inside[0] for offset in inside], dtype=torch.int32)
        own = own.pin_memory().to(device, non_blocking=True)
        found.append(SegmentGroup(slice(inside[0], inside[-1]), own, longest))
    return tuple(found)


def split_segments(num_segments: int, num_heads: int, processors: int) -> list[tuple[int, int]]:
    """First and last (excluded) segment of each group; empty where one launch does as well."""
    most = (processors - 1) // num_heads
    if most < 1 or not most < num_segments <= _MOST_GROUPS * most:
        return []
    count = -(-num_segments // most)
    ends = [round(num_segments * index / count) for index in range(count + 1)]
    return list(pairwise(ends))


@cache
def side_stream(device: torch.device, index: int) -> torch.cuda.Stream:
    """The stream of one group."""
    return torch.cuda.Stream(device)
