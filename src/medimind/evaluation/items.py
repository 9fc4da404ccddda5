"""Cases made ready for one arm: their prompts, gold texts, and the keys of their records."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medimind.cases.case import Case
from medimind.errors import EvaluationError, PromptError
from medimind.evaluation.records import Kind, digest
from medimind.evaluation.score import case_kind, gold_of
from medimind.models.load import Model
from medimind.models.lora import adapter_digest
from medimind.prompts.prompt import Prompt
from medimind.prompts.render import (
    opens_reasoning,
    render_cases,
    render_inference,
    render_native,
)
from medimind.prompts.templates import Template

logger = logging.getLogger(__name__)

# Part of every key: records of an older way to measure are asked again.
_RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of asking: ``native`` takes the checkpoint's own chat template."""

    name: str
    title: str
    adapter: bool
    native: bool


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are generated; the same for every arm."""

    max_new_tokens: int
    thinking_budget: int | None
    temperature: float
    top_p: float
    seed: int


@dataclass(frozen=True, slots=True)
class Item:
    """A case made ready for one arm."""

    case: Case
    kind: Kind
    prompt_ids: list[int]
    open_in_prompt: bool
    gold_text: Prompt | None
    is_asked: bool
    key: str


@dataclass(frozen=True, slots=True)
class Setting:
    """Everything that holds for all cases of one arm."""

    model: Model
    arm: Arm
    template: Template
    decoding: Decoding
    option_likelihood: bool
    with_options: bool


def make_items(
    setting: Setting, cases: Sequence[Case], *, num_asked: int, context: Mapping[str, object]
) -> tuple[list[Item], list[str]]:
    """The cases in their order, and notes on those whose gold text cannot be rendered.

    Args:
        setting: What holds for all of them.
        cases: Their ids must differ.
        num_asked: Answers are generated for this many, from the first on.
        context: Further settings that the records depend on.

    Raises:
        EvaluationError: If ids repeat.
        PromptError: If a prompt cannot be rendered.
    """
    ids = [case.id for case in cases]
    if len(set(ids)) != len(ids):
        repeated = next(one for one in ids if ids.count(one) > 1)
        raise EvaluationError(
            f"the case id '{repeated}' is there more than once",
            fix="Give every case an id of its own",
        )
    gold, notes = _gold_texts(setting, cases)
    shared = _settings_digest(setting, context)
    items = []
    for index, case in enumerate(cases):
        kind = case_kind(case, with_options=setting.with_options)
        prompt_ids = _prompt_ids(setting, case)
        text = gold.get(case.id)
        is_asked = index < num_asked
        identity = [
            shared,
            case.id,
            kind,
            list(case.options),
            gold_of(case, kind),
            prompt_ids,
            None if text is None else text.token_ids_S.tolist(),
            is_asked,
        ]
        open_in_prompt = (
            opens_reasoning(prompt_ids, tokenizer=setting.model.tokenizer)
            if setting.arm.native
            else setting.template.open_in_prompt
        )
        items.append(Item(case, kind, prompt_ids, open_in_prompt, text, is_asked, digest(identity)))
    return items, notes


def _gold_texts(setting: Setting, cases: Sequence[Case]) -> tuple[dict[str, Prompt], list[str]]:
    """The training text of each case; none for the native template, which only asks."""
    if setting.arm.native:
        return {}, []
    rendered = render_cases(
        cases,
        template=setting.template,
        tokenizer=setting.model.tokenizer,
        with_options=setting.with_options,
    )
    notes = [
        f"{rejected.case_id}: no loss, its gold text cannot be rendered ({rejected.reason})"
        for rejected in rendered.rejected
    ]
    return {prompt.case_id: prompt for prompt in rendered.prompts}, notes


def _prompt_ids(setting: Setting, case: Case) -> list[int]:
    tokenizer, with_options = setting.model.tokenizer, setting.with_options
    if setting.arm.native:
        return render_native(case, tokenizer=tokenizer, with_options=with_options)
    return render_inference(
        case, template=setting.template, tokenizer=tokenizer, with_options=with_options
    )


def _settings_digest(setting: Setting, context: Mapping[str, object]) -> str:
    model, decoding, template = setting.model, setting.decoding, setting.template
    return digest(
        {
            "version": _RECORD_VERSION,
            "arm": setting.arm.name,
            "model": [model.sha256, model.tokenizer.hash, model.arithmetic, model.quantization],
            "adapter": adapter_digest(model.decoder) if setting.arm.adapter else None,
            "decoding": [
                decoding.max_new_tokens,
                decoding.thinking_budget,
                decoding.temperature,
                decoding.top_p,
                decoding.seed,
            ],
            "template": [template.reasoning_open, template.reasoning_close, list(template.stop)],
            "option_likelihood": setting.option_likelihood,
            "context": dict(context),
        }
    )


def has_native_template(model: Model, case: Case) -> bool:
    """Whether the checkpoint brings a chat template of its own that can render a case."""
    try:
        render_native(case, tokenizer=model.tokenizer)
    except PromptError as error:
        logger.warning("the base model is not judged with its own chat template: %s", error)
        return False
    return True
