"""Two or more sets of results, compared case by case; the first is what the others are held to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medimind.errors import EvaluationError
from medimind.evaluation.arm import ArmSummary, summarise_arm
from medimind.evaluation.comparison import Comparison, Sides, by_case, compare_together
from medimind.evaluation.evaluation import jsonable
from medimind.evaluation.records import Record
from medimind.evaluation.results import ResultSet, some
from medimind.evaluation.same_cases import is_same_case
from medimind.evaluation.statistics import cohens_kappa
from medimind.evaluation.wording import count_text, listed

UNNAMED = "the files' cases"
"""What cases of no benchmark are called: nobody has shown that they were held out."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A file's own verdicts against ours, on the same outputs.

    Attributes:
        name: The set.
        num: Outputs that both judged.
        both_right: Right by both.
        only_theirs: Ids of the cases that the file counts as right and we do not.
        only_ours: Ids of the cases that we count as right and the file does not.
        kappa: Cohen's kappa; ``nan`` where chance explains everything.
    """

    name: str
    num: int
    both_right: int
    only_theirs: tuple[str, ...]
    only_ours: tuple[str, ...]
    kappa: float


@dataclass(frozen=True, slots=True)
class ResultComparison:
    """All sets against the first, and against the control where there is one.

    Attributes:
        arms: Each set by itself, over its own cases, benchmark by benchmark.
        comparisons: One for each benchmark and set but the first; those with the control follow.
        warnings: Unequal coverage and damage; to be shown before any figure.
        agreements: For sets that hold verdicts of their own.
        confidence: Level of the intervals.
        bootstrap_samples: Resamples.
        seed: Of bootstrap and randomisation test.
    """

    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]
    agreements: tuple[Agreement, ...] = ()
    confidence: float = 0.95
    bootstrap_samples: int = 10_000
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return jsonable(dataclasses.asdict(self))


def compare_results(
    sets: Sequence[ResultSet],
    *,
    on_difference: Literal["stop", "common"] = "stop",
    control: ResultSet | None = None,
    confidence: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> ResultComparison:
    """Every set against the first on the same cases, benchmark by benchmark, Holm over all.

    One set alone is re-scored, if it holds verdicts of its own to hold ours against.

    Args:
        sets: The one compared against, then the others.
        on_difference: ``stop`` refuses sets of different cases; ``common`` compares those that
            all sets have and says so.
        control: Another model that all but the first are also compared with.
        confidence: Level of the intervals.
        num_samples: Resamples of the bootstrap.
        seed: Of bootstrap and randomisation test.

    Raises:
        EvaluationError: If there are fewer than two sets, their cases differ, they have none in
            common, or the same case has another question or gold answer.
    """
    sets = _named_apart([*sets, *([control] if control else [])])
    if len(sets) < 2 and not any(one.verdicts for one in sets):
        raise EvaluationError("a comparison needs at least two result files")
    warnings = [text for one in sets if (text := _declared_warning(one))]
    pairs = [(sets[0], other) for other in sets[1:]]
    if control is not None:
        pairs += [(sets[-1], other) for other in sets[1:-1]]
    together: list[Sides] = []
    for benchmark in _benchmarks(sets):
        found, told = _shared(sets, benchmark, on_difference)
        warnings += told
        for first, other in pairs:
            if first.name in found and other.name in found:
                _check_same_cases(first.name, other.name, found)
                sides = (found[first.name], found[other.name])
                names = (first.name, other.name)
                titles = (first.shown, other.shown)
                together.append(Sides(*sides, names, titles, tuple(told), benchmark, UNNAMED))
    if pairs and not together:
        named = "; ".join(f"{one.name}: {listed(_named(one.benchmarks))}" for one in sets)
        raise EvaluationError(
            f"no two of the files are of the same benchmark ({named})",
            fix="Name it in the mapping of the file that names none, such as benchmark: medqa",
        )
    warnings += [note for one in sets for note in one.notes]
    comparisons = compare_together(
        together, confidence=confidence, num_samples=num_samples, seed=seed
    )
    if len(_benchmarks(sets)) == 1:
        comparisons = [
            dataclasses.replace(one, warnings=_all(one, warnings)) for one in comparisons
        ]
    return ResultComparison(
        arms=tuple(
            summarise_arm(
                [record for record in one.records if record.benchmark == benchmark],
                name=one.name,
                title=one.shown,
                confidence=confidence,
                benchmark=benchmark,
                unnamed=UNNAMED,
                seed=seed,
            )
            for benchmark in _benchmarks(sets)
            for one in sets
            if benchmark in one.benchmarks
        ),
        comparisons=tuple(comparisons),
        warnings=tuple(dict.fromkeys(warnings)),
        agreements=tuple(_agreement(one) for one in sets if one.verdicts),
        confidence=confidence,
        bootstrap_samples=num_samples,
        seed=seed,
    )


def _declared_warning(one: ResultSet) -> str | None:
    """Tells of a file that holds other than it says."""
    if one.declared is None or one.declared == one.num_cases:
        return None
    if one.declared < one.num_cases:
        return f"{one.name} holds {one.num_cases} cases, and its file declares {one.declared}"
    return (
        f"{one.name} was scored on {one.num_cases} of the {one.declared} cases that its file "
        "declares; the others are missing, not wrong, and no share over all of them can be given"
    )


def _all(comparison: Comparison, warnings: Sequence[str]) -> tuple[str, ...]:
    """Warnings about all files stand with the only comparison's own."""
    return tuple(dict.fromkeys([*warnings, *comparison.warnings]))


def _named_apart(sets: Sequence[ResultSet]) -> list[ResultSet]:
    names = [one.name for one in sets]
    if len(set(names)) == len(names):
        return list(sets)
    return [dataclasses.replace(s, name=f"{s.name} ({i})") for i, s in enumerate(sets, 1)]


def _benchmarks(sets: Sequence[ResultSet]) -> list[str | None]:
    return list(dict.fromkeys(name for one in sets for name in one.benchmarks))


def _named(benchmarks: Sequence[str | None]) -> list[str]:
    return [name or "none named" for name in benchmarks]


def _shared(
    sets: Sequence[ResultSet], benchmark: str | None, on_difference: str
) -> tuple[dict[str, list[Record]], list[str]]:
    """Records of the cases that all sets with this benchmark have, and what should be told."""
    own = {
        one.name: [record for record in one.records if record.benchmark == benchmark]
        for one in sets
        if benchmark in one.benchmarks
    }
    ids = {name: {record.case_id for record in records} for name, records in own.items()}
    common = set.intersection(*ids.values())
    about = f"{benchmark}: " if benchmark else ""
    missing = [one.name for one in sets if one.name not in own]
    told = [f"{about}not in {', '.join(missing)}"] if missing else []
    if not common:
        raise EvaluationError(
            f"{about}the files have no case in common: their ids differ, and their questions",
            where=", ".join(own),
            fix="Compare results on the same cases",
        )
    if any(len(one) != len(common) for one in ids.values()):
        parts = "; ".join(
            f"{name} has {count_text(len(one), 'case')}, {len(one) - len(common)} of them not in "
            "all files"
            for name, one in ids.items()
        )
        if on_difference == "stop":
            raise EvaluationError(
                f"{about}the files hold different cases ({parts})",
                where=", ".join(own),
                fix="Evaluate on the same cases, or compare the common ones: --common",
            )
        told.append(f"{about}unequal coverage: {parts}; compared on the {len(common)} in common")
    wordings = {
        name: {r.asked_likelihood for r in records if r.option_logprobs and r.asked_likelihood}
        for name, records in own.items()
    }
    if len(set.union(*wordings.values())) > 1:
        asked = ", ".join(f"{name} {'/'.join(sorted(w))}" for name, w in wordings.items() if w)
        told.append(f"{about}likeliest options were asked for by different prompts ({asked})")
    found = {name: [r for r in records if r.case_id in common] for name, records in own.items()}
    return found, told


def _check_same_cases(first: str, other: str, found: dict[str, list[Record]]) -> None:
    """The same id must mean the same question, options and gold answer."""
    left, right = by_case(found[first]), by_case(found[other])
    differing = [
        case_id for case_id in sorted(left) if not is_same_case(left[case_id], right[case_id])
    ]
    if differing:
        raise EvaluationError(
            f"{count_text(len(differing), 'case')} with the same id but another question, options "
            f"or gold answer: {some(differing)}",
            where=f"{first}, {other}",
            fix="Compare results on the same cases",
        )


def _agreement(one: ResultSet) -> Agreement:
    pairs = [
        (record.case_id, ours, one.verdicts[record.case_id, record.sample])
        for record in one.records
        if (record.case_id, record.sample) in one.verdicts and (ours := _ours(record)) is not None
    ]
    return Agreement(
        name=one.name,
        num=len(pairs),
        both_right=sum(ours and theirs for _, ours, theirs in pairs),
        only_theirs=tuple(case_id for case_id, ours, theirs in pairs if theirs and not ours),
        only_ours=tuple(case_id for case_id, ours, theirs in pairs if ours and not theirs),
        kappa=cohens_kappa([p[1] for p in pairs], [p[2] for p in pairs]) if pairs else float("nan"),
    )


def _ours(record: Record) -> bool | None:
    """Right or wrong as written out, or by the likeliest option where nothing was written."""
    return record.correct if record.is_asked else record.likeliest_correct
