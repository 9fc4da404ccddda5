"""What a report says, in the order it says it: the one source of all three formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.comparison import NOTHING, Comparison
from medimind.evaluation.evaluation import Evaluation, Overall, overall_verdict
from medimind.evaluation.evidence import NO_EVIDENCE, Evidence
from medimind.evaluation.reasoning import CONCLUSION_RULE
from medimind.evaluation.report.account import Account, account_of
from medimind.evaluation.report.asked import benchmark_settings
from medimind.evaluation.report.changes import Changes, changes
from medimind.evaluation.report.evidence import (
    evidence_rules,
    evidence_sections,
    overlap_warnings,
)
from medimind.evaluation.report.glance import Glance, glances
from medimind.evaluation.report.guessing import (
    UNPROVEN,
    guessing_limits,
    guessing_sentence,
    told_sentence,
)
from medimind.evaluation.report.reading import reading_limits
from medimind.evaluation.report.sections import Section, arm_sections
from medimind.evaluation.report.training import TrainingRow, training_rows
from medimind.evaluation.report.verdicts import (
    all_unproven,
    answer_metrics,
    benchmarks_sentence,
    named_sentences,
)
from medimind.evaluation.report.views import (
    WORDS,
    ArmView,
    ComparisonView,
    arm_view,
    comparison_view,
    example_anchor,
)
from medimind.evaluation.wording import count_text, value_text

OPEN_LIMIT = (
    "Open answers are matched by words. An answer that lists several diagnoses counts as right if "
    "the gold one is among them, so does one whose name only holds it (diabetes insipidus for "
    "diabetes), and a right answer in other words counts as wrong."
)
SAFETY_LIMIT = (
    "This is a measurement on test cases. It does not show that the model is safe or useful for "
    "patients."
)


@dataclass(frozen=True, slots=True)
class ReportContent:
    """Everything a report shows, as text where it is text in every format."""

    headline: str
    addition: str
    tone: str
    verdict: str
    subtitle: str
    confidence: str
    details: tuple[str, ...]
    made_better: tuple[str, ...]
    made_worse: tuple[str, ...]
    glances: tuple[Glance, ...]
    changes: tuple[Changes, ...]
    comparisons: tuple[ComparisonView, ...]
    arms: tuple[ArmView, ...]
    sections: tuple[Section, ...]
    account: Account | None
    training: tuple[TrainingRow, ...]
    settings: tuple[tuple[str, str], ...]
    rules: tuple[str, ...]
    statistics: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]
    limits: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    title: str = "Before and after"
    example_rule: str = ""

    @property
    def is_single(self) -> bool:
        """Whether there is one comparison only, which then stands for itself."""
        return len(self.comparisons) == 1


def report_content(
    evaluation: Evaluation,
    *,
    curves: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
    data_summary: Mapping[str, Any],
    evidence: Evidence = NO_EVIDENCE,
) -> ReportContent:
    """The report's text and figures.

    Args:
        evaluation: The comparison.
        curves: Rows of ``metrics.jsonl``.
        provenance: What ``medimind.tracking.provenance.collect`` gave.
        data_summary: What ``medimind.cases.prepare`` gave; with ``train_ids`` the report can show
            that no held-out case was trained on.
        evidence: What was measured beside the comparison.
    """
    summary, settings = evaluation.summary, evaluation.settings
    others = evidence.benchmarks
    on_benchmarks = others.comparisons if others else ()
    before_after = [one for one in on_benchmarks if one.after == evaluation.main.after]
    arms = (*evaluation.arms, *(others.arms if others else ()))
    words, tone = overall_words(
        _verdict(evaluation, before_after), [*evaluation.comparisons, *before_after], arms
    )
    shown = {one.case_id: example_anchor(i) for i, one in enumerate(evaluation.examples)}
    return ReportContent(
        headline=summary.headline,
        addition=" ".join(
            filter(
                None,
                (
                    summary.addition,
                    benchmarks_sentence(before_after, arms),
                    guessing_sentence(arms, name=evaluation.main.after),
                ),
            )
        ),
        tone=tone,
        verdict=words,
        subtitle=(
            f"{evaluation.settings.model['name']} before and after fine-tuning, on "
            f"{count_text(len(evaluation.case_ids), 'held-out case')}"
        ),
        confidence=confidence_text(settings.confidence),
        details=_told(summary.details, evaluation.comparisons, arms),
        made_better=(
            *_told(summary.made_better, evaluation.comparisons, arms),
            *named_sentences(before_after, "improved", arms),
        ),
        made_worse=(*summary.made_worse, *named_sentences(before_after, "worse")),
        glances=glances([evaluation.main, *_against_base(evaluation, before_after)], arms),
        changes=changes([*evaluation.comparisons, *before_after], arms),
        comparisons=tuple(
            comparison_view(one, shown, arms) for one in (*evaluation.comparisons, *before_after)
        ),
        arms=tuple(arm_view(arm) for arm in arms if arm.num_asked),
        sections=(
            *arm_sections(arms, evidence.misled),
            *evidence_sections(evidence, others.agreements if others else ()),
        ),
        account=account_of(data_summary, held_out=evaluation.case_ids),
        training=training_rows(curves),
        settings=(*_settings(evaluation), *benchmark_settings(arms)),
        rules=(*settings.rules, CONCLUSION_RULE, *evidence_rules(evidence)),
        statistics=_statistics(evaluation),
        provenance=flat(provenance),
        limits=(
            *guessing_limits(arms),
            *reading_limits(arms, longest=settings.max_new_tokens),
            *_limits(evaluation),
        ),
        notes=(*evaluation.notes, *evidence.notes),
        warnings=(*(others.warnings if others else ()), *overlap_warnings(evidence.overlaps)),
        example_rule=settings.example_rule,
    )


def _told(
    sentences: Sequence[str], comparisons: Sequence[Comparison], arms: Sequence[ArmSummary]
) -> tuple[str, ...]:
    """The summary's sentences, ending as they are told where guessing would get as far."""
    told = {
        metric.sentence: told_sentence(comparison, metric, arms)
        for comparison in comparisons
        for metric in comparison.metrics
        if metric.verdict == "improved"
    }
    return tuple(
        next(
            (one.removesuffix(own) + other for own, other in told.items() if one.endswith(own)), one
        )
        for one in sentences
    )


def _against_base(evaluation: Evaluation, benchmarks: Sequence[Comparison]) -> list[Comparison]:
    return [one for one in benchmarks if one.before == evaluation.main.before]


def overall_words(
    verdict: Overall, comparisons: Sequence[Comparison], arms: Sequence[ArmSummary]
) -> tuple[str, str]:
    """The verdict in words and its tone; gains of which none passes a mark are not called ones."""
    if verdict == "improved" and all_unproven(comparisons, arms):
        return UNPROVEN, "open"
    return WORDS[verdict]


def _verdict(evaluation: Evaluation, benchmarks: Sequence[Comparison]) -> Overall:
    """Of the answers, wherever they were scored; of the loss where they were not."""
    answers = [
        metric for one in (*evaluation.comparisons, *benchmarks) for metric in answer_metrics(one)
    ]
    return overall_verdict(answers) if answers else evaluation.summary.text or NOTHING


def _settings(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    settings = evaluation.settings
    greedy = settings.temperature == 0
    budget = settings.thinking_budget
    return (
        ("Prompt template", settings.template),
        ("Held-out cases", str(len(evaluation.case_ids))),
        ("Answers generated for", count_text(evaluation.num_asked, "case")),
        (
            "Decoding",
            "greedy"
            if greedy
            else f"temperature {settings.temperature:g}, top-p {settings.top_p:g}, "
            f"seed {settings.seed}",
        ),
        ("Longest output", count_text(settings.max_new_tokens, "token")),
        ("Thinking budget", "none" if budget is None else count_text(budget, "token")),
        ("Base model", f"{settings.model['name']}, revision {settings.model['revision']}"),
        ("Weights (SHA-256)", settings.model["sha256"]),
        ("Adapter (SHA-256)", settings.adapter_sha256),
        (
            "Held as",
            f"{settings.model['quantization']}, computed in {settings.model['dtype']} on "
            f"{settings.model['device']}",
        ),
    )


def _statistics(evaluation: Evaluation) -> tuple[str, ...]:
    settings = evaluation.settings
    return statistics_text(
        confidence=settings.confidence,
        samples=settings.bootstrap_samples,
        seed=settings.seed,
        together="all comparisons on held-out cases, and over all on benchmarks",
    )


def statistics_text(
    *, confidence: float, samples: int, seed: int, together: str = "all comparisons of this report"
) -> tuple[str, ...]:
    """How intervals and p-values came about, in sentences.

    Args:
        confidence: Level of the intervals.
        samples: Resamples.
        seed: Of resampling.
        together: Over what p-values were adjusted.
    """
    return (
        "Everything is paired: each case is its own control.",
        f"Intervals are {confidence_text(confidence)} percentile intervals of the mean difference "
        f"from {samples:,} resamples of the cases (seed {seed}), widened for few cases after "
        "Hesterberg (2015).",
        "p-values are two-sided: McNemar's test for yes-or-no figures, a paired randomisation test "
        "for the others. They are adjusted after Holm, the headline figures and the descriptive "
        f"ones each as a group, over {together}.",
        "Of McNemar's test the mid-p form decides (Fagerland et al., 2013): in 2,000 simulated "
        "runs without a difference it calls about 5 % different, the exact form 3 to 4 %. The "
        "exact p-value is in the JSON file.",
        "Several outputs of one case count as one case: cases are resampled and swapped with all "
        "their outputs, and standard errors are clustered by case (Miller, 2024). Such a case is "
        "gained or lost by what more than half of its outputs do.",
        "A figure is called improved or worse only if its interval excludes zero and its adjusted "
        f"p-value is below {1 - confidence:.2g}. Where every case changed by as much there is no "
        "spread and no interval, and the p-value decides. A drop needs no more evidence than a "
        "gain.",
        "The smallest difference that would show is the one that this many cases would find in "
        "four of five repetitions (Miller, 2024), with its p-value adjusted among figures that did "
        "not change.",
    )


def confidence_text(confidence: float) -> str:
    """The level of intervals: ``95 %``."""
    return f"{confidence:.0%}".replace("%", "\N{NO-BREAK SPACE}%")


def _limits(evaluation: Evaluation) -> tuple[str, ...]:
    num = evaluation.num_asked
    limits = [
        "One training run was judged. The intervals cover the choice of cases, not the chance of "
        "training: another seed gives another adapter.",
        "Loss on the gold text says how well a model foresees how these answers are written, not "
        "whether its own answers are right.",
    ]
    accuracy = evaluation.main.metric("answer_accuracy")
    if accuracy is not None:
        cases, least = count_text(accuracy.num_cases, "case"), accuracy.detectable
        limits.insert(
            0,
            f"{cases} can show a difference in right answers of about "
            f"{value_text(least, 'share', is_difference=True)} or more; smaller ones stay unseen."
            if least <= 1
            else f"{cases} cannot show any difference in right answers, however large.",
        )
    if 0 < num < len(evaluation.case_ids):
        limits.append(
            f"Answers were generated for the first {num} of {len(evaluation.case_ids)} held-out "
            "cases only; the loss covers all."
        )
    limits += [OPEN_LIMIT, SAFETY_LIMIT]
    return tuple(limits)


def flat(value: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Nested values as rows of a name with points and a text."""
    rows: list[tuple[str, str]] = []
    for key, inner in value.items():
        name = f"{prefix}{key}"
        if isinstance(inner, Mapping):
            rows.extend(flat(inner, f"{name}."))
        elif isinstance(inner, (list, tuple)):
            rows.append((name, ", ".join(map(str, inner)) or "none"))
        else:
            rows.append((name, "unknown" if inner is None else str(inner)))
    return tuple(rows)
