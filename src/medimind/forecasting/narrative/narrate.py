"""The account of a forecast: a model's words if every claim is traced, else the template's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medimind.engines.engine import Decoding, Engine, Message, Request
from medimind.errors import MediMindError
from medimind.forecasting.narrative.template import template_narrative
from medimind.forecasting.narrative.verify import Problem, verify
from medimind.forecasting.records.unit_names import written_unit

_SYSTEM = (
    "You explain a forecast to a clinician in a few plain sentences. Use only what the JSON says: "
    "every number with its unit and its horizon in days, exactly as given. No diagnosis, no "
    "advice, no number of your own."
)


@dataclass(frozen=True, slots=True)
class Narrative:
    """An account whose every claim is in the document.

    Attributes:
        text: The account.
        source: ``model`` or ``template``.
        refused: What was found wrong with each text of the model that did not pass.
    """

    text: str
    source: str
    refused: tuple[tuple[Problem, ...], ...] = ()


class UntracedError(MediMindError):
    """Our own template wrote what the document does not say."""


def narrate(
    document: Mapping[str, Any],
    *,
    engine: Engine | None = None,
    tries: int = 3,
    max_new_tokens: int = 400,
) -> Narrative:
    """The account of one patient's forecast.

    The model sees the document's figures only, never the records. A text with a claim that is not
    traced is thrown away and asked for again; after ``tries`` the template's stands in, and
    ``refused`` says why.
    """
    refused = []
    if engine is not None:
        for seed in range(tries):
            reply = engine.answer(
                [Request(messages=messages_for(document), seed=seed)],
                decoding=Decoding(
                    max_new_tokens=max_new_tokens, temperature=0.0 if seed == 0 else 0.7
                ),
            )[0]
            text = answer_of(reply.text)
            verdict = verify(text, document)
            if verdict.passes and verdict.num_numbers:
                return Narrative(text, "model", tuple(refused))
            refused.append(verdict.problems or (Problem("", 0, "it holds no figure"),))
    text = template_narrative(document)
    verdict = verify(text, document)
    if not verdict.passes:
        first = verdict.problems[0]
        raise UntracedError(f"the account says '{first.text}', but {first.reason}")
    return Narrative(text, "template", tuple(refused))


def messages_for(document: Mapping[str, Any]) -> tuple[Message, ...]:
    """What the model is asked."""
    figures = json.dumps(shortened(document), ensure_ascii=False)
    return (
        Message("system", _SYSTEM),
        Message("user", f"Forecast:\n{figures}\n\nExplain it in at most six sentences."),
    )


def shortened(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document without what an explanation does not need."""
    return {
        "measurements": [
            {
                "name": part["name"],
                "unit": written_unit(part["unit"]),
                "last_value": part["history"][-1]["value"] if part["history"] else None,
                "forecasts": [
                    {
                        "horizon_days": row["horizon_days"],
                        "value": row["value"],
                        "interval_90_percent": row["intervals"]["90"],
                    }
                    for row in part["forecasts"]
                ],
                "evidence": part["evidence"],
            }
            for part in document["codes"]
        ],
        "risks": [
            {
                "name": risk["name"],
                "by_horizon_percent": {
                    f"{row['horizon_days']:g} days": row["by_percent"] for row in risk["horizons"]
                },
            }
            for risk in document["risks"]
        ],
    }


def answer_of(text: str) -> str:
    """What follows the thinking, without marks of lists and emphasis."""
    answer = text.rpartition("</think>")[2]
    answer = re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", answer, flags=re.MULTILINE)
    return re.sub(r"[*_#`]+", "", answer).strip()
