"""Where a share of right answers tells how outputs could be read, as much as what a model knows."""

from __future__ import annotations

from collections.abc import Sequence

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.wording import count_text, value_text

_MANY = 0.1


def reading_limits(arms: Sequence[ArmSummary], *, longest: int | None = None) -> tuple[str, ...]:
    """Sentences on cut-off and unread outputs, where there are more than one in ten.

    Args:
        arms: The models by themselves.
        longest: Tokens that outputs on held-out cases may have, where that is known.
    """
    found: dict[str, list[str]] = {}
    for arm in arms:
        if not arm.num_scored:
            continue
        cut_off = arm.statuses["cut_off"] / arm.num_asked
        unread = (arm.statuses["unparsed"] + arm.statuses["unclosed"]) / arm.num_asked
        place = f"On {arm.place}, outputs"
        limit = "their token limit"
        if longest is not None and arm.benchmark is None:
            limit = f"the limit of {count_text(longest, 'token')}"
        told = {
            f"{place} that reached {limit} count as wrong; a longer limit may change the figures. "
            "Their share": cut_off,
            f"{place} in which no answer could be read count as wrong: the share of right answers "
            "then tells how a model writes, as much as what it knows. Their share": unread,
        }
        for sentence, share in told.items():
            if share > _MANY:
                found.setdefault(sentence, []).append(f"{value_text(share, 'share')} ({arm.title})")
    return tuple(f"{sentence}: {', '.join(shares)}." for sentence, shares in found.items())
