"""Where answers are right no more often than guessing, or than always naming one option.

A gain that stays below such a mark is one of form: answers that can be read, or a letter that the
model has come to favour.
"""

from __future__ import annotations

from collections.abc import Sequence

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.report.sections import about
from medimind.evaluation.statistics import wilson_interval
from medimind.evaluation.wording import listed, value_text


def guessing_sentence(arms: Sequence[ArmSummary], *, name: str) -> str:
    """Where one arm does not pass the marks; empty where it passes them all."""
    own = [arm for arm in arms if arm.name == name]
    written = [about(arm.benchmark) for arm in own if _is_guessing(arm)]
    likeliest = [about(arm.benchmark) for arm in own if _names_the_commonest(arm)]
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
        if _is_guessing(arm) and arm.chance is not None:
            mark = f"written answers are not shown to be better than guessing ({_share(arm.chance)}"
            found.setdefault(f"On {about(arm.benchmark)}, {mark})", []).append(arm.title)
    for arm in arms:
        if _names_the_commonest(arm) and arm.commonest is not None:
            mark = (
                "the likeliest option is not shown to be right more often than always naming the "
                f"commonest right one ({_share(arm.commonest)})"
            )
            found.setdefault(f"On {about(arm.benchmark)}, {mark}", []).append(arm.title)
    return tuple(
        f"{place}, for: {'; '.join(titles)}. A change below that mark is one of form."
        for place, titles in found.items()
    )


def _is_guessing(arm: ArmSummary) -> bool:
    return arm.chance is not None and arm.interval is not None and arm.interval.low <= arm.chance


def _names_the_commonest(arm: ArmSummary) -> bool:
    found = arm.calibration
    if found is None or arm.commonest is None:
        return False
    right = round(found.accuracy * found.num_cases)
    return wilson_interval(right, found.num_cases).low <= arm.commonest


def _share(value: float) -> str:
    return value_text(value, "share")
