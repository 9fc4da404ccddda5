"""What one arm does with a batch of cases: losses, outputs, likeliest options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medimind.cases.case import OPTION_LETTERS
from medimind.errors import EvaluationError
from medimind.evaluation.answering.asks import ANSWER_CUE, LIKELIHOOD_RULES
from medimind.evaluation.answering.likelihoods import likeliest_option
from medimind.evaluation.items import Item, Setting
from medimind.evaluation.outputs import with_output
from medimind.evaluation.records import Record
from medimind.evaluation.score import gold_of
from medimind.models.generate import Generation, generate
from medimind.models.loss import token_losses
from medimind.models.options import Choice, option_logprobs
from medimind.packing.pack import pack
from medimind.prompts.parse import parse_output
from medimind.prompts.prompt import Prompt

LIKELIHOOD_RULE = LIKELIHOOD_RULES["chat"]
_NATIVE_CLOSE = "\n</think>\n\n"
_LOSS_BATCH_TOKENS = 4096


def measure(setting: Setting, items: Sequence[Item]) -> list[Record]:
    """One record per item, scored."""
    losses = _losses(setting, [item.gold_text for item in items if item.gold_text is not None])
    likeliest = _likeliest(setting, items) if setting.option_likelihood else {}
    asked = [item for item in items if item.is_asked]
    outputs = dict(zip((item.key for item in asked), _generate(setting, asked), strict=True))
    found = [{**losses.get(item.case.id, {}), **likeliest.get(item.key, {})} for item in items]
    return [
        _record(setting, item, values, outputs.get(item.key))
        for item, values in zip(items, found, strict=True)
    ]


def _losses(setting: Setting, prompts: Sequence[Prompt]) -> dict[str, dict[str, float]]:
    """Mean losses of each case: of its reasoning, its response, and both."""
    if not prompts:
        return {}
    longest = max(len(prompt.token_ids_S) for prompt in prompts)
    num_reasoning = {prompt.case_id: prompt.num_reasoning_targets for prompt in prompts}
    found = {}
    for batch in pack(prompts, tokens_per_batch=max(longest, _LOSS_BATCH_TOKENS)):
        for case_id, losses_N in token_losses(setting.model.decoder, batch).per_case():
            values_N = losses_N.astype(np.float64)
            if not np.isfinite(values_N).all():
                raise EvaluationError(
                    f"the loss of the case '{case_id}' is not finite in the arm "
                    f"'{setting.arm.name}'",
                    fix="The weights or the adapter are damaged, or need a wider dtype "
                    "(model.dtype: bfloat16 or float32)",
                )
            split = num_reasoning[case_id]
            parts = {"loss_reasoning": values_N[:split], "loss_response": values_N[split:]}
            found[case_id] = {
                **{name: float(part.mean()) for name, part in parts.items() if part.size},
                "loss": float(values_N.mean()),
            }
    return found


def _generate(setting: Setting, items: Sequence[Item]) -> list[Generation]:
    """Outputs; the thinking budget holds only where the output can hold thinking."""
    if not items:
        return []
    template, decoding, native = setting.template, setting.decoding, setting.arm.native
    close = _NATIVE_CLOSE if native else template.reasoning_close
    thinks = items[0].open_in_prompt if native else bool(close.strip())
    return generate(
        setting.model,
        [item.prompt_ids for item in items],
        max_new_tokens=decoding.max_new_tokens,
        thinking_budget=decoding.thinking_budget if thinks else None,
        reasoning_close=close or _NATIVE_CLOSE,
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        seed=decoding.seed,
        stop=() if native else template.stop,
        batch_size=len(items),
    )


def _record(
    setting: Setting, item: Item, values: Mapping[str, Any], output: Generation | None
) -> Record:
    gold, case, template = item.gold_text, item.case, setting.template
    markers = (template.reasoning_open.strip(), template.reasoning_close.strip())
    record = Record(
        key=item.key,
        arm=setting.arm.name,
        case_id=case.id,
        kind=item.kind,
        question=case.question,
        options=case.options if setting.with_options else (),
        gold=gold_of(case, item.kind),
        num_reasoning_targets=gold.num_reasoning_targets if gold else None,
        num_response_targets=gold.num_response_targets if gold else None,
        **values,
        prompt=setting.model.tokenizer.decode(item.prompt_ids),
        open_in_prompt=item.open_in_prompt,
        markers=() if setting.arm.native else markers,
    )
    return record if output is None else _with_output(setting, record, output)


def _with_output(setting: Setting, record: Record, output: Generation) -> Record:
    if setting.arm.native:
        parsed = parse_output(output.text, open_in_prompt=record.open_in_prompt)
    else:
        parsed = parse_output(output.text, template=setting.template)
    return with_output(
        record,
        output.text,
        parsed=parsed,
        finish_reason=output.finish_reason,
        token_ids=output.token_ids,
        num_tokens=len(output.token_ids),
        num_thinking_tokens=output.num_thinking_tokens,
        thinking_budget=setting.decoding.thinking_budget,
    )


def _likeliest(setting: Setting, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """By key, the letter that the model finds likeliest after ``Answer:`` (``option-letter``)."""
    chosen = [
        item for item in items if item.kind == "choice" and item.case.answer_index is not None
    ]
    encode = setting.model.tokenizer.encode
    choices = [
        Choice(
            [*item.prompt_ids, *encode(_empty_thinking(setting, item) + ANSWER_CUE)],
            [encode(f" {letter}") for letter in OPTION_LETTERS[: len(item.case.options)]],
        )
        for item in chosen
    ]
    found = option_logprobs(setting.model, choices)
    return {
        item.key: {**likeliest_option(item.case, logprobs), "asked_likelihood": "chat"}
        for item, logprobs in zip(chosen, found, strict=True)
    }


def _empty_thinking(setting: Setting, item: Item) -> str:
    template = setting.template
    if setting.arm.native:
        return _NATIVE_CLOSE if item.open_in_prompt else ""
    opening = "" if item.open_in_prompt else template.reasoning_open
    return opening + template.reasoning_close
