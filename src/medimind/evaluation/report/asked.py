"""Which benchmarks were asked, and how many of their questions."""

from __future__ import annotations

from collections.abc import Sequence

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.benchmarks import BENCHMARKS


def benchmark_settings(arms: Sequence[ArmSummary]) -> tuple[tuple[str, str], ...]:
    """Title of each benchmark of ours, with the part asked, its split, licence and source."""
    most: dict[str, int] = {}
    for arm in arms:
        if arm.benchmark in BENCHMARKS:
            most[arm.benchmark] = max(most.get(arm.benchmark, 0), arm.num_cases)
    cards = [(BENCHMARKS[name].card, num_cases) for name, num_cases in most.items()]
    return tuple(
        (
            card.title,
            f"{num_cases:,} of its {card.num_items or num_cases:,} questions; split: {card.split}; "
            f"licence: {card.licence}; {card.source}",
        )
        for card, num_cases in cards
    )
