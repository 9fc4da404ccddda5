"""Checks that compare rows: jumps, repeated rows, copies of codes and of patients.

All work on rows sorted by patient, code, time. Legend: ``N`` rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medimind.forecasting.records.row_checks import Meaning
from medimind.forecasting.records.table import Flags, Floats, Integers

_FEWEST_FOR_COPIES = 4
_FEWEST_PAIRS_FOR_SUSPECT = 20
_DECADES = ((1, "value-tenfold"), (2, "value-hundredfold"), (3, "value-thousandfold"))
# How far from a whole number of decades a jump may be: a slipped point times a true change.
_NEAR = 0.12


@dataclass(frozen=True, slots=True, eq=False)
class Sorted:
    """Usable rows in order.

    Attributes:
        place: (N,) Place of each in the source's rows.
        patient: (N,) Patient.
        code: (N,) Code.
        time: (N,) Days.
        value: (N,) In the code's unit.
    """

    place: Integers
    patient: Integers
    code: Integers
    time: Floats
    value: Floats

    def by_code(self, num_codes: int) -> Iterator[Integers]:
        """The rows of each code, in order; one sort for all of them."""
        order = np.argsort(self.code, kind="stable")
        ends = np.searchsorted(self.code[order], np.arange(num_codes + 1))
        for start, end in pairwise(ends.tolist()):
            yield order[start:end]

    def keep(self, marked: Flags) -> Sorted:
        """Only the rows that are marked."""
        return Sorted(
            self.place[marked], self.patient[marked], self.code[marked], self.time[marked],
            self.value[marked],
        )  # fmt: skip


def sort_rows(
    usable: Flags, patient: Integers, code: Integers, time: Floats, value: Floats
) -> Sorted:
    """The usable rows by patient, code and time; equal ones stay in the source's order."""
    place = np.flatnonzero(usable)
    key = patient[place].astype(np.int64) * (int(code.max(initial=0)) + 1) + code[place]
    times = time[place]
    is_sorted = np.all((np.diff(key) > 0) | ((np.diff(key) == 0) & (np.diff(times) >= 0)))
    if not is_sorted:
        place = place[np.lexsort((times, key))]
    return Sorted(place, patient[place], code[place], time[place], value[place])


def repeated(rows: Sorted) -> tuple[Flags, Flags]:
    """Rows that say again what the one before says, and rows that contradict each other."""
    same = np.zeros(len(rows.value), dtype=bool)
    same[1:] = (
        (rows.patient[1:] == rows.patient[:-1])
        & (rows.code[1:] == rows.code[:-1])
        & (rows.time[1:] == rows.time[:-1])
    )
    if not same.any():
        return same, same.copy()
    group = np.cumsum(~same) - 1
    starts = np.flatnonzero(~same)
    low = np.minimum.reduceat(rows.value, starts)
    high = np.maximum.reduceat(rows.value, starts)
    # Conversion between units leaves the last digits different.
    differs = (high - low) > 1e-6 * np.maximum(np.abs(high), np.abs(low))
    return same & ~differs[group], differs[group]


def jumps(rows: Sorted, codes: list[Meaning]) -> dict[str, Flags]:
    """Values about 10, 100 or 1000 times those of the same patient at other times."""
    found = {kind: np.zeros(len(rows.value), dtype=bool) for _, kind in _DECADES}
    for meaning, mine in zip(codes, rows.by_code(len(codes))):
        mine = mine[rows.value[mine] > 0]
        if len(mine) < 2:
            continue
        log = np.log10(rows.value[mine])
        owner = rows.patient[mine]
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        counts = np.diff(np.append(starts, len(mine)))
        group = np.repeat(np.arange(len(starts)), counts)
        order = np.lexsort((log, group))
        middle = log[order][starts + (counts - 1) // 2]
        upper = log[order][starts + counts // 2]
        usual = np.log10(meaning.known.usual) if meaning.known and meaning.known.usual > 0 else None
        if usual is not None:
            # Of two middle values that are decades apart, the likelier one is the patient's own.
            nearer = np.where(np.abs(middle - usual) <= np.abs(upper - usual), middle, upper)
            middle = np.where(upper - middle > 0.5, nearer, (middle + upper) / 2)
        else:
            middle = (middle + upper) / 2
        away = log - middle[group]
        # Where one person's values move by decades anyway, only a thousandfold stands out.
        is_steady = _moves_little(log, group, meaning)
        for decades, kind in _DECADES:
            if decades < 3 and not is_steady:
                continue
            fewest = 3 if decades == 1 or usual is None else 2
            candidate = (counts[group] >= fewest) & (np.abs(np.abs(away) - decades) < _NEAR)
            found[kind][mine] = _reached_by_jumps(candidate, log, group, decades)
    return found


def _reached_by_jumps(candidate: Flags, log: Floats, group: Integers, decades: int) -> Flags:
    """Candidates whose run begins and ends with a jump; a slow change over decades is none."""
    if not candidate.any():
        return candidate
    new_group = np.diff(group, prepend=-1) != 0
    run = np.cumsum(new_group | np.append(True, np.diff(candidate.astype(np.int8)) != 0)) - 1
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    ends = np.append(starts[1:], len(log))
    before, after = np.maximum(starts - 1, 0), np.minimum(ends, len(log) - 1)
    has_before = (starts > 0) & (group[before] == group[starts])
    has_after = (ends < len(log)) & (group[after] == group[starts])
    near = 1.5 * _NEAR
    left = np.abs(np.abs(log[starts] - log[before]) - decades) < near
    right = np.abs(np.abs(log[ends - 1] - log[after]) - decades) < near
    return candidate & ((left | ~has_before) & (right | ~has_after))[run]


def _moves_little(log: Floats, group: Integers, meaning: Meaning) -> bool:
    if meaning.known is not None:
        return meaning.known.is_steady
    steps = np.abs(np.diff(log))[np.diff(group) == 0]
    return len(steps) >= _FEWEST_PAIRS_FOR_SUSPECT and float(np.quantile(steps, 0.95)) < 0.25


def copied_codes(rows: Sorted, num_codes: int) -> list[tuple[int, int]]:
    """Pairs of codes whose rows are the same in patient, time and value; the second is a copy."""
    prints: dict[tuple[int, int, int], int] = {}
    copies = []
    for code, mine in enumerate(rows.by_code(num_codes)):
        value = rows.value[mine]
        if len(value) < _FEWEST_FOR_COPIES or len(np.unique(value)) < 3:
            continue
        whole = np.stack([rows.patient[mine].astype(np.float64), rows.time[mine], value], axis=1)
        print_ = (len(value), hash(whole.tobytes()), hash(value.tobytes()))
        if print_ in prints:
            copies.append((prints[print_], code))
        else:
            prints[print_] = code
    return copies


def copied_patients(rows: Sorted, num_patients: int) -> list[tuple[int, int]]:
    """Pairs of patients whose measurements are the same; the second is a copy."""
    if len(rows.value) == 0:
        return []
    ends = np.searchsorted(rows.patient, np.arange(num_patients + 1))
    counts = np.diff(ends)
    first = rows.value[np.minimum(ends[:-1], len(rows.value) - 1)]
    # Sums are cheap and agree for copies; only patients that share them are compared in full.
    sums = np.add.reduceat(np.append(rows.value, 0.0), np.minimum(ends[:-1], len(rows.value)))
    candidates = np.flatnonzero(counts >= _FEWEST_FOR_COPIES)
    key = np.stack([counts[candidates], first[candidates], sums[candidates]], axis=1)
    order = candidates[np.lexsort(key.T)]
    copies = []
    for one, other in zip(order[:-1].tolist(), order[1:].tolist()):
        if counts[one] != counts[other] or first[one] != first[other]:
            continue
        mine, theirs = slice(ends[one], ends[one + 1]), slice(ends[other], ends[other + 1])
        times, their_times = rows.time[mine], rows.time[theirs]
        if (
            np.array_equal(rows.value[mine], rows.value[theirs])
            and np.array_equal(rows.code[mine], rows.code[theirs])
            and np.array_equal(times, their_times)
            and len(np.unique(rows.value[mine])) >= 3
        ):
            copies.append((min(one, other), max(one, other)))
    return copies


def suspect_units(rows: Sorted, codes: list[Meaning]) -> list[tuple[int, str]]:
    """Codes whose values are all so far from usual that another allowed unit would fit better."""
    suspects = []
    for code, (meaning, mine) in enumerate(zip(codes, rows.by_code(len(codes)))):
        known = meaning.known
        value = rows.value[mine]
        if known is None or not known.is_steady or len(value) < _FEWEST_PAIRS_FOR_SUSPECT:
            continue
        middle = float(np.median(value))
        if middle <= 0:
            continue
        distance = abs(np.log(middle / known.usual))
        for unit, other in known.conversions.items():
            if abs(np.log(other.factor)) < np.log(2):
                continue
            after = middle * other.factor + other.offset
            if (
                after > 0
                and distance > np.log(3.5)
                and abs(np.log(after / known.usual)) < np.log(2)
            ):
                suspects.append((code, unit))
                break
    return suspects
