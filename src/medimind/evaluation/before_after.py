"""Before and after: the base model and the tuned one on the same held-out cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medimind.cases.case import Case
from medimind.config.evaluation import EvaluationConfig
from medimind.errors import EvaluationError
from medimind.evaluation.arm import summarise_arm
from medimind.evaluation.arms import BASE, BASE_NATIVE, TUNED, ArmResult, Progress, run_arm
from medimind.evaluation.comparison import Sides, by_case, compare_together
from medimind.evaluation.evaluation import Evaluation, Settings, summarise
from medimind.evaluation.examples import EXAMPLE_RULE, pick_examples
from medimind.evaluation.extract import CHOICE_RULE, DENOMINATOR_RULE, OPEN_RULE
from medimind.evaluation.items import Decoding, has_native_template
from medimind.evaluation.measure import LIKELIHOOD_RULE
from medimind.models.load import Model
from medimind.models.lora import adapter_digest
from medimind.prompts.templates import Template

_NO_NATIVE = (
    "the base model was not asked with its own chat template: the checkpoint has none that can "
    "render these cases"
)


def compare_before_after(
    model: Model,
    cases: Sequence[Case],
    *,
    template: Template,
    config: EvaluationConfig,
    folder: Path,
    show_options: bool = True,
    context: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """The tuned model against the base model, with our prompt and with the base model's own.

    The records of each arm lie in ``folder`` as ``base_native.jsonl``, ``base.jsonl`` and
    ``tuned.jsonl``; a call after a kill goes on where they end.

    Args:
        model: With the adapter attached.
        cases: The held-out cases.
        template: The recipe's template.
        config: What is measured.
        folder: Where the records go, such as ``runs/NAME/evaluation``.
        show_options: Show a case's options and ask for a letter (``prompt.show_options``).
        context: Further settings that the records depend on, as JSON values.
        progress: Called with an arm's name, its finished and its wanted cases.

    Raises:
        EvaluationError: If there are no cases or no adapter, or records cannot be written.
        PromptError: If a prompt cannot be rendered.
    """
    if not cases:
        raise EvaluationError(
            "there are no held-out cases to compare on",
            fix="Hold some out: data.held_out.rows, or data.held_out.fraction",
        )
    if model.decoder.lora is None:
        raise EvaluationError(
            "the model has no adapter, so before and after would be the same",
            fix="Train one first, or load one",
        )
    num_asked = len(cases) if config.limit is None else min(config.limit, len(cases))
    decoding = _decoding(config)
    arms, notes = [BASE, TUNED], []
    if config.native_template and (num_asked or config.option_likelihood):
        if has_native_template(model, cases[0]):
            arms.insert(0, BASE_NATIVE)
        else:
            notes.append(_NO_NATIVE)
    results = {
        arm.name: run_arm(
            model,
            cases,
            arm=arm,
            template=template,
            decoding=decoding,
            folder=folder,
            num_asked=num_asked,
            option_likelihood=config.option_likelihood,
            with_options=show_options,
            batch_size=config.decoding.batch_size,
            context=context,
            progress=progress,
        )
        for arm in arms
    }
    notes += dict.fromkeys(note for result in results.values() for note in result.notes)
    return _evaluation(model, cases, results, notes, template, config, num_asked)


def _evaluation(
    model: Model,
    cases: Sequence[Case],
    results: Mapping[str, ArmResult],
    notes: Sequence[str],
    template: Template,
    config: EvaluationConfig,
    num_asked: int,
) -> Evaluation:
    tuned = results[TUNED.name]
    comparisons = compare_together(
        [
            Sides(
                results[name].records,
                tuned.records,
                (name, tuned.arm.name),
                (results[name].arm.title, tuned.arm.title),
            )
            for name in (BASE.name, BASE_NATIVE.name)
            if name in results
        ],
        confidence=config.confidence,
        num_samples=config.bootstrap_samples,
        seed=config.decoding.seed,
    )
    found = {name: by_case(result.records) for name, result in results.items()}
    return Evaluation(
        case_ids=tuple(case.id for case in cases),
        num_asked=num_asked,
        arms=tuple(
            summarise_arm(
                result.records,
                name=name,
                title=result.arm.title,
                confidence=config.confidence,
            )
            for name, result in results.items()
        ),
        comparisons=tuple(comparisons),
        summary=summarise(comparisons),
        settings=_settings(model, template, config),
        examples=pick_examples(
            cases,
            before=found[BASE.name],
            after=found[TUNED.name],
            arms=[(name, results[name].arm.title, found[name]) for name in results],
            num=config.examples,
        ),
        notes=tuple(notes),
    )


def _decoding(config: EvaluationConfig) -> Decoding:
    decoding = config.decoding
    return Decoding(
        max_new_tokens=decoding.max_new_tokens,
        thinking_budget=decoding.thinking_budget,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed,
    )


def _settings(model: Model, template: Template, config: EvaluationConfig) -> Settings:
    decoding = config.decoding
    return Settings(
        template=template.name,
        max_new_tokens=decoding.max_new_tokens,
        thinking_budget=decoding.thinking_budget,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed,
        confidence=config.confidence,
        bootstrap_samples=config.bootstrap_samples,
        rules=(CHOICE_RULE, OPEN_RULE, DENOMINATOR_RULE, LIKELIHOOD_RULE),
        example_rule=EXAMPLE_RULE,
        adapter_sha256=adapter_digest(model.decoder),
        model={
            "name": model.name,
            "revision": model.revision or "none (local files)",
            "sha256": model.sha256,
            "dtype": model.arithmetic.removeprefix("torch."),
            "quantization": model.quantization,
            "device": str(model.device),
        },
    )
