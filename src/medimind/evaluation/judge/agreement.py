"""What judges found, how steady they are, and how far they agree with each other and our rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from medimind.evaluation.judge.ask import Judgement, is_judged
from medimind.evaluation.records import Record
from medimind.evaluation.statistics import Interval, clustered_share_interval, cohens_kappa


@dataclass(frozen=True, slots=True)
class JudgedArm:
    """One judge on one arm.

    Attributes:
        judge: The judge.
        arm: The arm.
        num_open: Open outputs of the arm: the denominator.
        num_judged: Those with an answer to judge; the others are wrong.
        right: Judged the same as the gold answer in both orders.
        turned: Judged otherwise once the order was swapped; they count as wrong.
        unreadable: Without a verdict in one order or both; they count as wrong.
        interval: Wilson interval of the share of right ones among all open outputs, clustered
            where a case has several.
        right_by_rule: Right by our word matching.
        kappa_with_rule: Cohen's kappa between judge and word matching, over all open outputs.
        other: The second judge; ``None`` where there is only one.
        kappa_with_other: Cohen's kappa between both, over all open outputs.
        title: What a report calls the arm; empty takes its key.
    """

    judge: str
    arm: str
    num_open: int
    num_judged: int
    right: int
    turned: int
    unreadable: int
    interval: Interval
    right_by_rule: int
    kappa_with_rule: float
    other: str | None
    kappa_with_other: float | None
    title: str = ""

    @property
    def shown(self) -> str:
        """What a report calls the arm."""
        return self.title or self.arm


def summarise_judged(
    records: Sequence[Record],
    judgements: Sequence[Judgement],
    *,
    titles: Mapping[str, str] = MappingProxyType({}),
    confidence: float = 0.95,
) -> tuple[JudgedArm, ...]:
    """Every judge on every arm, over all its open outputs; unjudged ones are wrong.

    Args:
        records: Records of one or several arms.
        judgements: Of one or two judges on them.
        titles: What a report calls the arms.
        confidence: Level of the intervals.
    """
    verdicts: dict[tuple[str, str, str, int], dict[str, str]] = {}
    for one in judgements:
        place = (one.judge, one.arm, one.case_id, one.sample)
        verdicts.setdefault(place, {})[one.order] = one.verdict
    judges = list(dict.fromkeys(one.judge for one in judgements))
    found = []
    for arm in dict.fromkeys(record.arm for record in records):
        own = [r for r in records if r.arm == arm and r.kind == "open" and r.is_asked and r.gold]
        if not own:
            continue
        said = {
            judge: [
                tuple(verdicts.get((judge, arm, one.case_id, one.sample), {}).values())
                for one in own
            ]
            for judge in judges
        }
        right = {judge: [both == ("same", "same") for both in said[judge]] for judge in judges}
        rule = [bool(record.correct) for record in own]
        for judge in judges:
            other = next((one for one in judges if one != judge), None)
            found.append(
                JudgedArm(
                    judge=judge,
                    arm=arm,
                    num_open=len(own),
                    num_judged=sum(map(is_judged, own)),
                    right=sum(right[judge]),
                    turned=sum(set(both) == {"same", "different"} for both in said[judge]),
                    unreadable=sum("unreadable" in both for both in said[judge]),
                    interval=clustered_share_interval(
                        right[judge], [one.case_id for one in own], confidence=confidence
                    ),
                    right_by_rule=sum(rule),
                    kappa_with_rule=cohens_kappa(right[judge], rule),
                    other=other,
                    kappa_with_other=cohens_kappa(right[judge], right[other]) if other else None,
                    title=titles.get(arm, ""),
                )
            )
    return tuple(found)
