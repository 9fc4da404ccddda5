"""The value that an evaluation results in, and the summary drawn from its comparisons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medimind.evaluation.arm import ArmSummary as ArmSummary
from medimind.evaluation.arm import summarise_arm as summarise_arm
from medimind.evaluation.comparison import NOTHING, Comparison, MetricComparison
from medimind.evaluation.wording import count_text

Overall = Literal["improved", "worse", "mixed", "nothing can be concluded"]
_ANSWER_METRICS = ("answer_accuracy", "likelihood_accuracy")


@dataclass(frozen=True, slots=True)
class ExampleOutput:
    """What one arm wrote to an example."""

    arm: str
    title: str
    output: str
    answer_part: str
    status: str
    extracted: str | None
    correct: bool | None
    num_tokens: int | None
    likeliest: str | None


@dataclass(frozen=True, slots=True)
class Example:
    """A case shown side by side; ``why`` says by which rule it was picked."""

    case_id: str
    question: str
    options: tuple[str, ...]
    gold: str | None
    gold_reasoning: str
    gold_response: str
    why: str
    outputs: tuple[ExampleOutput, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """How it was measured, as the report names it.

    Attributes:
        template: Name of the recipe's template.
        max_new_tokens: Longest output.
        thinking_budget: Tokens after which thinking is closed by force.
        temperature: 0 is greedy.
        top_p: Nucleus.
        seed: Of sampling, bootstrap and randomisation test.
        confidence: Level of the intervals.
        bootstrap_samples: Resamples.
        rules: The extraction and likelihood rules in words.
        example_rule: How the shown cases were picked.
        adapter_sha256: Digest of the adapter's values.
        model: Name, revision, weights' digest, dtype and quantisation of the base model.
    """

    template: str
    max_new_tokens: int
    thinking_budget: int | None
    temperature: float
    top_p: float
    seed: int
    confidence: float
    bootstrap_samples: int
    rules: tuple[str, ...]
    example_rule: str
    adapter_sha256: str
    model: dict[str, str]


@dataclass(frozen=True, slots=True)
class Summary:
    """The result in words.

    Attributes:
        answers: Whether the model answers better; ``None`` where no answer could be scored.
        text: Whether it predicts the gold text better; ``None`` where that was not measured.
        headline: One sentence about the answers (or the text, where nothing else was measured).
        addition: One sentence about the text; empty where the headline is about it.
        details: Further sentences, each with its figures; losses before gains.
        made_better: Primary and descriptive figures that improved.
        made_worse: Those that got worse.
    """

    answers: Overall | None
    text: Overall | None
    headline: str
    addition: str
    details: tuple[str, ...]
    made_better: tuple[str, ...]
    made_worse: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A before/after comparison on held-out cases; :meth:`to_dict` is what report.json holds."""

    case_ids: tuple[str, ...]
    num_asked: int
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    summary: Summary
    settings: Settings
    examples: tuple[Example, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values; what is infinite or unknown is ``None``."""
        return jsonable(dataclasses.asdict(self))

    @property
    def main(self) -> Comparison:
        """The tuned model against the base model with the same prompt."""
        return self.comparisons[0]


def jsonable(value: Any) -> Any:
    """The value with tuples as lists and figures that are not finite as ``None``."""
    if isinstance(value, dict):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def summarise(comparisons: Sequence[Comparison]) -> Summary:
    """Verdict and sentences; answers are judged against every arm, in both ways of answering.

    The answers *improved* only if some figure of theirs improved and none got worse against any
    arm; with both it is *mixed*.
    """
    main = comparisons[0]
    answers = [
        (comparison, metric)
        for comparison in comparisons
        for name in _ANSWER_METRICS
        if (metric := comparison.metric(name)) is not None
    ]
    loss = main.metric("loss")
    answers_verdict = overall_verdict([metric for _, metric in answers]) if answers else None
    text_verdict = overall_verdict([loss]) if loss is not None else None
    judged = [(c, m) for c in comparisons for m in c.metrics if m.verdict in ("improved", "worse")]
    worse = tuple(_named(c, m, comparisons) for c, m in judged if m.verdict == "worse")
    better = tuple(_named(c, m, comparisons) for c, m in judged if m.verdict == "improved")
    num_cases = max((metric.num_cases for _, metric in answers), default=0)
    headline, addition = _headline(answers_verdict, text_verdict, num_cases)
    shown = [(c, m) for c in comparisons for m in c.metrics if m.is_primary]
    shown.sort(key=lambda pair: pair[1].verdict != "worse")
    return Summary(
        answers=answers_verdict,
        text=text_verdict,
        headline=headline,
        addition=addition,
        details=tuple(_named(c, m, comparisons) for c, m in shown),
        made_better=better,
        made_worse=worse,
    )


def overall_verdict(metrics: Sequence[MetricComparison]) -> Overall:
    """The verdict of several figures together; *mixed* where some improved and some got worse."""
    verdicts = {metric.verdict for metric in metrics}
    if {"improved", "worse"} <= verdicts:
        return "mixed"
    return "improved" if "improved" in verdicts else "worse" if "worse" in verdicts else NOTHING


def _headline(
    answers_verdict: Overall | None, text_verdict: Overall | None, num_cases: int
) -> tuple[str, str]:
    """Headline and addition."""
    text = {
        "improved": "predicts the held-out gold text better",
        "worse": "predicts the held-out gold text worse",
        NOTHING: "shows no clear change in its loss on the held-out gold text",
    }.get(text_verdict or "")
    cases = count_text(num_cases, "case")
    if answers_verdict is None:
        if text is None:
            return "Nothing was measured, so nothing can be concluded.", ""
        return f"The tuned model {text}. Its answers to the held-out cases were not scored.", ""
    headline = {
        "improved": f"The tuned model answers better, on {cases}.",
        "worse": f"The tuned model answers worse, on {cases}.",
        "mixed": f"The tuned model answers better by one measure and worse by another, on {cases}.",
        NOTHING: f"{cases} cannot show whether the tuned model answers better or worse.",
    }[answers_verdict]
    return headline, f"The tuned model {text}." if text else ""


def _named(
    comparison: Comparison, metric: MetricComparison, comparisons: Sequence[Comparison]
) -> str:
    """The metric's sentence, with the arm compared against where there are several."""
    if len(comparisons) == 1:
        return metric.sentence
    return f"Against the {_lower(comparison.before_title)}: {metric.sentence}"


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]
