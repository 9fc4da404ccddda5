"""Where answers are right no more often than guessing, or than always naming one option.

A gain that stays below such a mark is one of form: answers that can be read, or a letter that the
model has come to favour.
"""

from __future__ import annotations

from collections.abc import Sequence

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.comparison import Comparison, MetricComparison
from medimind.evaluation.statistics import wilson_interval
from medimind.evaluation.wording import listed, value_text

UNPROVEN = "improved, no better than guessing"
_ANSWERS = ("answer_accuracy", "likelihood_accuracy")


def guessing_sentence(arms: Sequence[ArmSummary], *, name: str) -> str:
    """Where one arm does not pass the marks; empty where it passes them all."""
    own = [arm for arm in arms if arm.name == name]
    written = [arm.place for arm in own if is_guessing(arm)]
    likeliest = [arm.place for arm in own if names_the_commonest(arm)]
    sentences = []
    if written:
        sentences.append(
            f"Its written answers on {listed(written)} are not shown to be better than guessing."
        )
    if likeliest:
        sentences.append(
            f"Its likeliest options on {listed(likeliest)} are not shown to be better than always "
            "naming the commonest right option."
        )
    return " ".join(sentences)


def guessing_limits(arms: Sequence[ArmSummary]) -> tuple[str, ...]:
    """The same of all arms, with the marks."""
    found: dict[str, list[str]] = {}
    for arm in arms:
        if is_guessing(arm) and arm.chance is not None:
            mark = f"written answers are not shown to be better than guessing ({_share(arm.chance)}"
            found.setdefault(f"On {arm.place}, {mark})", []).append(arm.title)
    for arm in arms:
        if names_the_commonest(arm) and arm.commonest is not None:
            mark = (
                "the likeliest option is not shown to be right more often than always naming the "
                f"commonest right one ({_share(arm.commonest)})"
            )
            found.setdefault(f"On {arm.place}, {mark}", []).append(arm.title)
    return tuple(
        f"{place}, for: {'; '.join(titles)}. A change below that mark is one of form."
        for place, titles in found.items()
    )


def is_unproven(
    comparison: Comparison, metric: MetricComparison, arms: Sequence[ArmSummary]
) -> bool:
    """Whether a gain in right answers is not shown to pass its mark."""
    arm = arm_after(comparison, arms)
    if arm is None or metric.verdict != "improved" or metric.name not in _ANSWERS:
        return False
    return is_guessing(arm) if metric.name == "answer_accuracy" else names_the_commonest(arm)


def told_verdict(
    comparison: Comparison, metric: MetricComparison, arms: Sequence[ArmSummary]
) -> str:
    """A figure's verdict, where it stands alone too: a gain below its mark is named one of form."""
    return UNPROVEN if is_unproven(comparison, metric, arms) else metric.verdict


def told_sentence(
    comparison: Comparison, metric: MetricComparison, arms: Sequence[ArmSummary]
) -> str:
    """A figure's sentence, ending in that verdict."""
    if not is_unproven(comparison, metric, arms):
        return metric.sentence
    return f"{metric.sentence.removesuffix(f'{metric.verdict}.')}{UNPROVEN}."


def arm_after(comparison: Comparison, arms: Sequence[ArmSummary]) -> ArmSummary | None:
    """The model after, by itself, on the cases of a comparison."""
    place = (comparison.after, comparison.benchmark)
    return next((arm for arm in arms if (arm.name, arm.benchmark) == place), None)


def is_guessing(arm: ArmSummary) -> bool:
    """Whether written answers are not shown to be better than guessing an option."""
    return arm.chance is not None and arm.interval is not None and arm.interval.low <= arm.chance


def names_the_commonest(arm: ArmSummary) -> bool:
    """Whether likeliest options are not shown to be better than the commonest right one."""
    found = arm.calibration
    if found is None or arm.commonest is None:
        return False
    right = round(found.accuracy * found.num_cases)
    return wilson_interval(right, found.num_cases).low <= arm.commonest


def _share(value: float) -> str:
    return value_text(value, "share")
