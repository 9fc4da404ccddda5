"""Which cases are kept from training."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from medimind.cases.case import Case
from medimind.cases.words import words_of
from medimind.errors import DataError


@dataclass(frozen=True, slots=True)
class Split:
    """Both sides, each in the order the cases came in."""

    train: tuple[Case, ...]
    held_out: tuple[Case, ...]


def split_cases(
    cases: Sequence[Case], *, rows: int | None = None, fraction: float | None = None, seed: int
) -> Split:
    """The cases to train on and those held out, never one group on both sides.

    A group is ``Case.group``, or where there is none, all cases that ask the same question. Groups
    are held out in the order of a hash of the seed and the group, so that neither the order of the
    rows nor rows added later move a case from one side to the other needlessly.

    Args:
        cases: Cases with unique ids.
        rows: Hold out exactly this many.
        fraction: Hold out every group whose hash falls into this share, at least one.
        seed: Another seed gives another split.

    With neither, each case goes where its source puts it (``Case.split``), else to training.

    Raises:
        DataError: Fewer cases than asked for, or groups that cannot add up to ``rows``.
    """
    if rows is None and fraction is None:
        chosen = {case.id for case in cases if case.split == "held_out"}
    else:
        groups: defaultdict[str, list[Case]] = defaultdict(list)
        for case in cases:
            groups[group_of(case)].append(case)
        draws = {group: _draw(group, seed=seed) for group in groups}
        ordered = sorted(groups, key=lambda group: (draws[group], group))
        if len(ordered) < 2:
            raise DataError(
                f"{len(cases)} cases in {len(ordered)} group cannot be split",
                where="data.held_out",
                fix="Add cases, or leave held_out and group_by out",
            )
        if rows is not None:
            taken = _exactly(rows, [len(groups[group]) for group in ordered])
            names = [ordered[index] for index in taken]
        else:
            names = [group for group in ordered if draws[group] < (fraction or 0.0)]
            names = names[: len(ordered) - 1] or ordered[:1]
        chosen = {case.id for name in names for case in groups[name]}
    return Split(
        train=tuple(case for case in cases if case.id not in chosen),
        held_out=tuple(case for case in cases if case.id in chosen),
    )


def group_of(case: Case) -> str:
    """The name of the group that a case belongs to."""
    if case.group is not None:
        return f"group:{case.group}"
    return f"question:{' '.join(words_of(case.question)) or case.question}"


def _draw(group: str, *, seed: int) -> float:
    """A number in [0, 1) that depends on the seed and the group alone."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _exactly(rows: int, sizes: Sequence[int]) -> list[int]:
    """Indices of groups that add up to ``rows``; the first ones where that works."""
    total = sum(sizes)
    if rows >= total:
        raise DataError(
            f"{rows} of {total} cases cannot be held out: none would be left to train on",
            where="data.held_out.rows",
            fix=f"Ask for fewer than {total}",
        )
    taken, count = [], 0
    for index, size in enumerate(sizes):
        if count + size <= rows:
            taken.append(index)
            count += size
    return taken if count == rows else _subset(rows, sizes)


def _subset(rows: int, sizes: Sequence[int]) -> list[int]:
    """Indices of any groups that add up to ``rows`` (bit ``s`` of a mask: sum ``s`` is reached)."""
    reached = [1]
    for size in sizes:
        reached.append((reached[-1] | reached[-1] << size) & ((1 << rows + 1) - 1))
    if not reached[-1] >> rows & 1:
        nearest = reached[-1].bit_length() - 1
        raise DataError(
            f"the groups cannot add up to exactly {rows} held-out cases",
            where="data.held_out.rows",
            fix=f"Ask for {nearest}, or give a fraction instead",
        )
    taken, rest = [], rows
    for index in range(len(sizes) - 1, -1, -1):
        if not reached[index] >> rest & 1:
            taken.append(index)
            rest -= sizes[index]
    return taken
