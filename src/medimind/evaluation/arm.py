"""One arm by itself: how its answers were read, by class, how sure it is, how it thinks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from medimind.cases.case import OPTION_LETTERS
from medimind.evaluation.calibration import Calibration, calibrate
from medimind.evaluation.extract import STATUSES
from medimind.evaluation.reasoning import Reasoning, describe_reasoning
from medimind.evaluation.records import HELD_OUT, Record
from medimind.evaluation.statistics import Interval, clustered_share_interval

_MANY_CLASSES = 10


@dataclass(frozen=True, slots=True)
class RuleCount:
    """Right answers by one extraction rule, strict or not."""

    rule: str
    correct: int
    num_cases: int


@dataclass(frozen=True, slots=True)
class ClassRecall:
    """How many of the outputs whose right option is this one are right.

    Attributes:
        label: The letter, with the option's text where all cases have the same options.
        num: Outputs whose right option it is.
        correct: Those of them that are right.
        interval: Of the recall, as of the share of right answers; 0 to 1 without any output.
        chosen: Outputs that chose it, rightly or not; a letter that a model favours shows here.
    """

    label: str
    num: int
    correct: int
    interval: Interval
    chosen: int


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """One arm by itself.

    Attributes:
        name: Key of the arm.
        title: Its name in the report.
        benchmark: What the cases are from; ``None`` for held-out cases.
        num_cases: Cases with a record.
        num_outputs: Records; more than ``num_cases`` where cases were sampled several times.
        num_asked: Records with a generated answer: the denominator of all counts.
        num_scored: Those of them with a gold answer.
        statuses: Outputs by status, all four named.
        correct: Right answers by the strict rule.
        interval: Wilson interval of their share, clustered by case where cases were sampled several
            times; ``None`` where nothing was scored.
        sensitivity: Right answers by other rules, on the same outputs.
        recalls: Recall of each class, where the answers are options.
        balanced: Mean recall of the classes; ``None`` where there are none.
        calibration: How far option likelihoods can be trusted; ``None`` where none were measured.
        reasoning: How it thinks; ``None`` where nothing was generated.
        chance: Share of the scored outputs that guessing an option would get right; ``None`` where
            not all of them choose an option.
        commonest: Share of the cases with option likelihoods whose right option is the commonest
            one: what always naming that option would get right.
        unnamed: What cases of no benchmark are called.
    """

    name: str
    title: str
    num_cases: int
    num_asked: int
    num_scored: int
    statuses: dict[str, int]
    correct: int
    interval: Interval | None
    sensitivity: tuple[RuleCount, ...]
    benchmark: str | None = None
    num_outputs: int = 0
    recalls: tuple[ClassRecall, ...] = ()
    balanced: float | None = None
    calibration: Calibration | None = None
    reasoning: Reasoning | None = None
    chance: float | None = None
    commonest: float | None = None
    unnamed: str = HELD_OUT

    @property
    def place(self) -> str:
        """What the cases are from, in words."""
        return self.benchmark or self.unnamed


def summarise_arm(
    records: Sequence[Record],
    *,
    name: str,
    title: str,
    confidence: float = 0.95,
    benchmark: str | None = None,
    unnamed: str = HELD_OUT,
    seed: int = 0,
) -> ArmSummary:
    """Counts of one arm over all cases asked.

    Args:
        records: All records of the arm.
        name: Key of the arm.
        title: Its name in the report.
        confidence: Level of the intervals.
        benchmark: What the cases are from.
        unnamed: What cases of no benchmark are called.
        seed: Of the bootstrap of calibration figures.
    """
    asked = [record for record in records if record.is_asked]
    scored = [record for record in asked if record.correct is not None]
    rules = (
        ("strict rule", lambda record: record.correct),
        ("strict rule, cut-off outputs read too", lambda record: record.correct_cut_off_read),
        ("first match anywhere", lambda record: record.correct_first_match),
        ("last match anywhere", lambda record: record.correct_last_match),
    )
    counts = tuple(
        RuleCount(rule, sum(bool(value(record)) for record in scored), len(scored))
        for rule, value in rules
    )
    recalls = class_recalls(scored, confidence=confidence)
    shares = [one.correct / one.num for one in recalls if one.num]
    return ArmSummary(
        name=name,
        title=title,
        benchmark=benchmark,
        num_cases=len({record.case_id for record in records}),
        num_outputs=len(records),
        num_asked=len(asked),
        num_scored=len(scored),
        statuses={status: sum(r.status == status for r in asked) for status in STATUSES},
        correct=counts[0].correct,
        interval=_interval(scored, confidence),
        sensitivity=counts if scored else (),
        recalls=recalls,
        balanced=sum(shares) / len(shares) if shares else None,
        calibration=calibrate(records, confidence=confidence, seed=seed),
        reasoning=describe_reasoning(asked) if asked else None,
        chance=_chance(scored),
        commonest=_commonest(records),
        unnamed=unnamed,
    )


def _commonest(records: Sequence[Record]) -> float | None:
    gold = [record.gold for record in records if record.likeliest_correct is not None]
    return max(Counter(gold).values()) / len(gold) if gold else None


def _chance(scored: Sequence[Record]) -> float | None:
    if not scored or any(record.kind != "choice" or not record.options for record in scored):
        return None
    return sum(1 / len(record.options) for record in scored) / len(scored)


def _interval(scored: Sequence[Record], confidence: float) -> Interval | None:
    if not scored:
        return None
    correct = [float(bool(record.correct)) for record in scored]
    clusters = [record.case_id for record in scored]
    return clustered_share_interval(correct, clusters, confidence=confidence)


def class_recalls(scored: Sequence[Record], *, confidence: float = 0.95) -> tuple[ClassRecall, ...]:
    """Recall of every option letter; with ten options or more there would be too few of each."""
    choices = [record for record in scored if record.kind == "choice" and record.gold]
    num_options = max((len(record.options) for record in choices), default=0)
    if not choices or num_options >= _MANY_CLASSES:
        return ()
    options = choices[0].options
    is_same = all(record.options == options for record in choices) and all(options)
    recalls = []
    for index, letter in enumerate(OPTION_LETTERS[:num_options]):
        own = [record for record in choices if record.gold == letter]
        right = sum(bool(record.correct) for record in own)
        recalls.append(
            ClassRecall(
                label=f"{letter} ({options[index]})" if is_same else letter,
                num=len(own),
                correct=right,
                interval=_interval(own, confidence) or Interval(0.0, 1.0),
                chosen=sum(record.extracted == letter for record in choices),
            )
        )
    return tuple(recalls)
