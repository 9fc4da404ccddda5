"""The account of a forecast by the model that is served: its words, if every claim is traced.

The model sees the forecast's figures, never the records, and waits for its turn as any chat does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from medimind.forecasting.narrative.narrate import answer_of, messages_for
from medimind.forecasting.narrative.verify import verify
from medimind.serving.backend import Ask, Ended
from medimind.serving.failures import ServingError, engine_unavailable
from medimind.serving.serving import Serving

_TRIES = 3
_MOST_TOKENS = 400


async def write_account(serving: Serving, patient: dict[str, Any]) -> dict[str, Any]:
    """A patient's part of the reply, its account by the model where one of three texts passes.

    Otherwise the template's stays, and ``refused`` counts the texts that were thrown away.

    Raises:
        ServingError: As a chat.
    """
    for attempt in range(_TRIES):
        text = await _say(serving, _ask(serving, patient["document"], attempt))
        if await asyncio.to_thread(_is_traced, text, patient["document"]):
            return {**patient, "narrative": {"text": text, "source": "model", "refused": attempt}}
    return {**patient, "narrative": {**patient["narrative"], "refused": _TRIES}}


def _ask(serving: Serving, document: Mapping[str, Any], attempt: int) -> Ask:
    return Ask(
        messages=tuple((one.role, one.content) for one in messages_for(document)),
        variant=serving.backend.variants[-1],
        max_tokens=min(_MOST_TOKENS, serving.limits.max_tokens),
        temperature=0.0 if attempt == 0 else 0.7,
        top_p=1.0,
        seed=attempt,
        stop=(),
    )


def _is_traced(text: str, document: Mapping[str, Any]) -> bool:
    verdict = verify(text, document)
    return verdict.passes and verdict.num_numbers > 0


async def _say(serving: Serving, ask: Ask) -> str:
    """The answer without its thinking."""
    if not serving.backend.is_ready:
        raise engine_unavailable("the engine is not ready")
    place = serving.admission.enter()
    said = []
    try:
        prepared = await _prepared(serving, ask)
        while not await place.turn(seconds=serving.limits.queue_seconds):
            continue
        async with (
            asyncio.timeout(serving.limits.request_seconds),
            aclosing(serving.backend.generate(ask, prepared)) as pieces,
        ):
            async for piece in pieces:
                if isinstance(piece, Ended):
                    break
                if piece.part == "answer":
                    said.append(piece.text)
    except TimeoutError:
        raise ServingError(503, "the account took too long", code="timeout") from None
    finally:
        place.leave()
    return answer_of("".join(said))


async def _prepared(serving: Serving, ask: Ask) -> Any:
    try:
        return await serving.backend.prepare(ask)
    except ServingError as error:
        if error.code != "context_length_exceeded":
            raise
        raise ServingError(
            400,
            "the forecast is longer than the model's context: leave account=model out, ask for "
            "fewer horizons, or start the server with a longer --context",
            code=error.code,
            param="account",
        ) from None
