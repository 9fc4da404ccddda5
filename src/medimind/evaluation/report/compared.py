"""What the report of compared result files says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medimind.evaluation.compare import UNNAMED, ResultComparison
from medimind.evaluation.comparison import NOTHING
from medimind.evaluation.evaluation import Example
from medimind.evaluation.evidence import Evidence
from medimind.evaluation.examples import EXAMPLE_RULE, pick_from_records
from medimind.evaluation.extract import CHOICE_RULE, DENOMINATOR_RULE, OPEN_RULE
from medimind.evaluation.reasoning import CONCLUSION_RULE
from medimind.evaluation.report.asked import benchmark_settings
from medimind.evaluation.report.changes import changes
from medimind.evaluation.report.content import (
    OPEN_LIMIT,
    SAFETY_LIMIT,
    ReportContent,
    confidence_text,
    flat,
    overall_words,
    statistics_text,
)
from medimind.evaluation.report.evidence import (
    evidence_rules,
    evidence_sections,
    overlap_warnings,
)
from medimind.evaluation.report.glance import glances
from medimind.evaluation.report.guessing import guessing_limits, guessing_sentence
from medimind.evaluation.report.reading import reading_limits
from medimind.evaluation.report.sections import arm_sections
from medimind.evaluation.report.verdicts import (
    answers_verdict,
    named_sentence,
    named_sentences,
)
from medimind.evaluation.report.views import (
    arm_view,
    comparison_view,
    example_anchor,
)
from medimind.evaluation.results import ResultSet
from medimind.evaluation.wording import count_text

_NUM_EXAMPLES = 5
_LIKELIEST_RULE = (
    "likeliest option: the one with the highest log-probability in the file, after whatever prompt "
    "its program gave"
)


def compared_content(
    compared: ResultComparison,
    *,
    sets: Sequence[ResultSet],
    provenance: Mapping[str, Any],
    evidence: Evidence,
) -> tuple[ReportContent, tuple[Example, ...]]:
    """The report's text and figures, and the cases it shows side by side.

    Args:
        compared: The comparison.
        sets: What was compared, in the same order.
        provenance: Versions and machine.
        evidence: What was measured beside the comparison.
    """
    examples = pick_from_records(
        [(one.shown, one.records) for one in sets], num=_NUM_EXAMPLES if len(sets) > 1 else 0
    )
    shown = {one.case_id: example_anchor(index) for index, one in enumerate(examples)}
    verdict = answers_verdict(compared.comparisons)
    words, tone = overall_words(verdict, compared.comparisons, compared.arms)
    details = [(c, m) for c in compared.comparisons for m in c.metrics if m.is_primary]
    details.sort(key=lambda pair: pair[1].verdict != "worse")
    likeliest = (_LIKELIEST_RULE,) if any(arm.calibration for arm in compared.arms) else ()
    content = ReportContent(
        headline=_headline(compared),
        addition=guessing_sentence(compared.arms, name=compared.comparisons[0].after)
        if len(compared.comparisons) == 1
        else "",
        tone=tone,
        verdict=words,
        subtitle=_subtitle(compared, sets),
        confidence=confidence_text(compared.confidence),
        details=tuple(named_sentence(c, m, compared.arms) for c, m in details),
        made_better=named_sentences(compared.comparisons, "improved", compared.arms),
        made_worse=named_sentences(compared.comparisons, "worse"),
        glances=glances(compared.comparisons, compared.arms),
        changes=changes(compared.comparisons, compared.arms),
        comparisons=tuple(
            comparison_view(one, shown, compared.arms) for one in compared.comparisons
        ),
        arms=tuple(arm_view(arm) for arm in compared.arms if arm.num_asked),
        sections=(
            *arm_sections(compared.arms, evidence.misled),
            *evidence_sections(evidence, compared.agreements, unnamed=UNNAMED),
        ),
        account=None,
        training=(),
        settings=_settings(compared, sets),
        rules=(
            CHOICE_RULE,
            OPEN_RULE,
            DENOMINATOR_RULE,
            CONCLUSION_RULE,
            *likeliest,
            *evidence_rules(evidence),
        ),
        statistics=statistics_text(
            confidence=compared.confidence, samples=compared.bootstrap_samples, seed=compared.seed
        ),
        provenance=flat(provenance),
        limits=(
            *guessing_limits(compared.arms),
            *reading_limits(compared.arms),
            *_limits(compared, evidence),
        ),
        notes=_coverage_notes(compared),
        warnings=(
            *compared.warnings,
            *overlap_warnings(evidence.overlaps, unnamed=UNNAMED),
        ),
        title="Comparison",
        example_rule=EXAMPLE_RULE if examples else "",
    )
    return content, examples


def _coverage_notes(compared: ResultComparison) -> tuple[str, ...]:
    """Tells where a model is counted by itself over other cases than the comparison."""
    notes = []
    for benchmark in dict.fromkeys(arm.benchmark for arm in compared.arms):
        own = [arm for arm in compared.arms if arm.benchmark == benchmark]
        if len({arm.num_cases for arm in own}) > 1:
            cases = ", ".join(f"{arm.title} {arm.num_cases:,}" for arm in own)
            notes.append(
                f"On {own[0].place} each model is counted here, and in the parts below, over "
                f"all cases of its own file ({cases}), not over those in common"
            )
    return tuple(notes)


def _headline(compared: ResultComparison) -> str:
    comparisons = compared.comparisons
    if not comparisons:
        return " ".join(
            f"Of {count_text(one.num, 'output')}, {one.name} counts "
            f"{one.both_right + len(one.only_theirs)} as right and our rule "
            f"{one.both_right + len(one.only_ours)}."
            for one in compared.agreements
        )
    one, *others = comparisons
    if others:
        found = [answers_verdict([each]) for each in comparisons]
        shown = sum(each != NOTHING for each in found)
        total = count_text(len(comparisons), "comparison")
        if not shown:
            return f"None of {total} shows that one model answers better than another."
        return f"{shown} of {total} show a difference in the answers."
    cases = count_text(one.num_cases, "case")
    before, after = one.before_title, one.after_title
    return {
        "improved": f"{after} answers better than {before}, on {cases}.",
        "worse": f"{after} answers worse than {before}, on {cases}.",
        "mixed": f"{after} answers better than {before} by one measure and worse by another.",
        NOTHING: f"{cases} cannot show whether {after} answers better or worse than {before}.",
    }[answers_verdict(comparisons)]


def _subtitle(compared: ResultComparison, sets: Sequence[ResultSet]) -> str:
    benchmarks = dict.fromkeys(arm.benchmark for arm in compared.arms if arm.benchmark)
    on = f", on {', '.join(benchmarks)}" if benchmarks else ""
    return f"{', '.join(one.shown for one in sets)}{on}"


def _settings(compared: ResultComparison, sets: Sequence[ResultSet]) -> tuple[tuple[str, str], ...]:
    rows = [
        (
            one.shown,
            f"{count_text(one.num_cases, 'case')}, {count_text(len(one.records), 'output')}"
            + (f"; its file declares {one.declared:,} cases" if one.declared is not None else ""),
        )
        for one in sets
    ]
    held = ("Held against", f"{sets[0].shown}, the first")
    return (*rows, held, *benchmark_settings(compared.arms))


def _limits(compared: ResultComparison, evidence: Evidence) -> tuple[str, ...]:
    limits = [*compared.warnings] if not compared.comparisons else []
    if len(compared.comparisons) > 1:
        limits.append(
            "Several comparisons were made; p-values are adjusted for all of them at once, so each "
            "needs a larger difference than it would alone."
        )
    if not evidence.overlaps:
        limits.append(
            "Whether any of these models was trained on the cases it is judged by was not checked: "
            "give the training rows of ours, and mistrust any others."
        )
    limits.append(
        "Prompts and decoding may differ between files; only what stands in them was compared."
    )
    return (*limits, OPEN_LIMIT, SAFETY_LIMIT)
