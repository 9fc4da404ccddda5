"""Roles that columns play, and which column of a file plays which."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Role:
    """A part that a column can play.

    Attributes:
        name: Our name of it; what ``columns`` in a recipe maps from.
        candidates: Names such a column usually has, the likeliest first.
        required: Whether a file without it cannot be read with this schema.
    """

    name: str
    candidates: tuple[str, ...]
    required: bool = False


def normalize_name(name: str) -> str:
    """A column's name without case, spaces and dashes."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def assign_columns(
    roles: Sequence[Role], *, names: Iterable[str], mapped: Mapping[str, str]
) -> dict[str, str]:
    """Role -> column, for every role that a column plays.

    A mapped role takes its mapped column. Another takes the first of its candidates that is
    there, exactly or but for case, spaces and dashes; a mapped column plays no second role.
    """
    free = [name for name in names if name not in mapped.values()]
    by_normalized = {normalize_name(name): name for name in reversed(free)}
    assigned = {role.name: mapped[role.name] for role in roles if role.name in mapped}
    for role in roles:
        if role.name in assigned:
            continue
        for candidate in role.candidates:
            found = candidate if candidate in free else by_normalized.get(normalize_name(candidate))
            if found is not None:
                assigned[role.name] = found
                break
    return assigned


def suggest(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The name closest to a mistyped one."""
    by_normalized = {normalize_name(other): other for other in names}
    close = difflib.get_close_matches(normalize_name(name), by_normalized, n=1, cutoff=cutoff)
    return by_normalized[close[0]] if close else None
