"""Any OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, Ollama, ...) as an engine.

Reasoning that a server gives apart is put back before the answer in ``<think>`` tags, so that all
outputs are read by the same rule. Needs no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from medimind.engines.at_once import each_at_once
from medimind.engines.endpoint_http import ItemRefusedError, Wait, post
from medimind.engines.engine import (
    Decoding,
    FinishReason,
    OptionRequest,
    Reply,
    Request,
    Stream,
    Variant,
)
from medimind.errors import EngineError, MissingExtraError

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

_VERSION = 1  # part of every identity
_CONNECT_SECONDS = 10.0
_SHOWN_REFUSALS = 3
# What servers say of an output that reached its token limit; the first is OpenAI's word.
_CUT_OFF = frozenset({"length", "max_tokens", "model_length"})


class EndpointEngine:
    """A model behind an endpoint; the tuned one is a second name there, such as a LoRA's in vLLM.

    Args:
        url: Address of the API, such as ``http://localhost:8000/v1``.
        model: The model's name there.
        tuned_model: Name of the tuned model.
        api_key: Sent as bearer token; kept out of every message.
        concurrency: Requests at a time.
        timeout: Seconds that a request may take.
        retries: Further tries after a lost connection, a timeout, or a status such as 429 or 503.
        open_in_prompt: Whether the model's template opens the thinking, on a server that does not
            part the reasoning; ``None`` if unknown.
        wait: Waits so many seconds between tries.

    Raises:
        MissingExtraError: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        tuned_model: str | None = None,
        api_key: str | None = None,
        concurrency: int = 8,
        timeout: float = 600.0,
        retries: int = 6,
        open_in_prompt: bool | None = None,
        wait: Wait | None = None,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("httpx", extra="endpoint") from error
        self._url = url.rstrip("/")
        self._models: dict[Variant, str] = {"base": model}
        if tuned_model is not None:
            self._models["tuned"] = tuned_model
        self._concurrency = concurrency
        self._retries = retries
        self._open_in_prompt = open_in_prompt
        self._wait = wait
        self._told: set[str] = set()
        self._client: httpx.Client = httpx.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            limits=httpx.Limits(max_connections=concurrency),
        )

    @property
    def name(self) -> str:
        """The model's name at the endpoint."""
        return self._models["base"]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """``tuned`` too where the tuned model has a name."""
        return tuple(self._models)

    def identity(self, variant: Variant) -> str:
        """Hash of address and name: what a server holds behind them it does not tell."""
        parts = [_VERSION, self._url, self._models[variant], self._open_in_prompt]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def answer(
        self,
        requests: Sequence[Request],
        *,
        decoding: Decoding,
        variant: Variant = "base",
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:
        """The outputs in the order of the requests, several at a time.

        Raises:
            EngineError: The endpoint cannot be reached or refuses a request. Refused ones are
                named after all others were answered.
        """
        replies: dict[int, Reply] = {}
        refused: dict[int, str] = {}
        lock, stopped = threading.Lock(), threading.Event()

        def one(index: int) -> None:
            try:
                reply = self._reply(requests[index], decoding, variant, stopped)
            except ItemRefusedError as error:
                refused[index] = error.reason
                return
            with lock:  # here, so that it is recorded before this thread asks on
                replies[index] = reply
                if on_reply is not None:
                    on_reply(index, reply)

        for _ in each_at_once(one, len(requests), workers=self._concurrency, stopped=stopped):
            pass
        if refused:
            raise self._refusals(refused, len(requests))
        return [replies[index] for index in range(len(requests))]

    def stream(self, request: Request, *, decoding: Decoding, variant: Variant = "base") -> Stream:
        """The output piece by piece, and why it ended; closing it closes the connection.

        Raises:
            EngineError: The endpoint cannot be reached or refuses the request.
        """
        import httpx

        path, body = self._body(request, decoding, variant)
        opened = closed = False
        reason: FinishReason = "cancelled"  # until the server says otherwise
        try:
            with self._client.stream(
                "POST", f"{self._url}{path}", json={**body, "stream": True}
            ) as response:
                if response.status_code >= 400:
                    raise EngineError(
                        f"the endpoint answers with status {response.status_code}",
                        where=self._url,
                        fix="Look into the server's log",
                    )
                for line in response.iter_lines():
                    thought, text, ended = _pieces(line)
                    reason = ended or reason
                    if thought:
                        yield thought if opened else f"<think>\n{thought}"
                        opened = True
                    if text:
                        yield f"\n</think>\n\n{text}" if opened and not closed else text
                        closed = True
        except httpx.HTTPError as error:
            raise EngineError(
                f"the connection failed ({type(error).__name__})",
                where=self._url,
                fix="Check that the server runs and the address ends in /v1",
            ) from None
        return reason

    def option_logprobs(
        self,
        requests: Sequence[OptionRequest],
        *,
        variant: Variant = "base",
        on_logprobs: Callable[[int, list[float]], None] | None = None,
    ) -> list[list[float]] | None:
        """By a server that echoes a prompt with its log-probabilities, as vLLM does; else ``None``.

        Only for ``request.prompt``: the chat API has no log-probabilities of a given text. Several
        requests are on their way at a time.

        Raises:
            EngineError: The endpoint cannot be reached.
        """
        if any(one.request.prompt is None for one in requests):
            return None
        stopped = threading.Event()
        found: dict[int, list[float]] = {}
        for index, logprobs in each_at_once(
            lambda index: self._echoed_logprobs(requests[index], variant, stopped),
            len(requests),
            workers=self._concurrency,
            stopped=stopped,
        ):
            if logprobs is None:
                return None
            found[index] = logprobs
            if on_logprobs is not None:
                on_logprobs(index, logprobs)
        return [found[index] for index in range(len(requests))]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _echoed_logprobs(
        self, one: OptionRequest, variant: Variant, stopped: threading.Event
    ) -> list[float] | None:
        start = (one.request.prompt or "") + one.request.prefill
        found = []
        for continuation in one.continuations:
            body = {
                "model": self._models[variant],
                "prompt": start + continuation,
                "max_tokens": 1,
                "temperature": 0,
                "echo": True,
                "logprobs": 1,
            }
            try:
                document = self._post("/completions", body, stopped)
            except ItemRefusedError:
                return None
            logprob = _echoed(document, start=len(start), end=len(start) + len(continuation))
            if logprob is None:
                return None
            found.append(logprob)
        return found

    def _reply(
        self, request: Request, decoding: Decoding, variant: Variant, stopped: threading.Event
    ) -> Reply:
        path, body = self._body(request, decoding, variant)
        started = time.perf_counter()
        document = self._post(path, body, stopped)
        reply = read_completion(document, seconds=time.perf_counter() - started)
        if reply is None:
            raise EngineError(
                "the endpoint's reply holds no output",
                where=self._url,
                fix="Give the address of an OpenAI-compatible API, such as http://host:8000/v1",
            )
        if reply.open_in_prompt is None:
            reply = dataclasses.replace(reply, open_in_prompt=self._open_in_prompt)
        return reply

    def _post(
        self, path: str, body: dict[str, Any], stopped: threading.Event | None
    ) -> dict[str, Any]:
        return post(
            self._client,
            f"{self._url}{path}",
            body,
            retries=self._retries,
            wait=self._wait or (stopped or threading.Event()).wait,
            tell=self._tell,
        )

    def _tell(self, reason: str) -> None:
        """Say once why answers are waited for."""
        if reason not in self._told:
            self._told.add(reason)
            logger.warning("%s: %s; trying again", self._url, reason)

    def _body(
        self, request: Request, decoding: Decoding, variant: Variant
    ) -> tuple[str, dict[str, Any]]:
        if decoding.thinking_budget is not None:
            raise EngineError(
                "an endpoint cannot close the thinking after a number of tokens",
                where=self._url,
                fix="Leave the thinking budget out, or let our own engine answer",
            )
        if request.prefill and request.prompt is None:
            raise EngineError("an endpoint's chat cannot begin an output", where=self._url)
        if variant not in self._models:
            raise EngineError(
                "the tuned model has no name here",
                where=self._url,
                fix="Name it as the server does, such as with --tuned-name",
            )
        body: dict[str, Any] = {
            "model": self._models[variant],
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": request.seed,
        }
        if decoding.stop:
            body["stop"] = list(decoding.stop)
        if request.prompt is not None:
            return "/completions", {**body, "prompt": request.prompt + request.prefill}
        messages = [{"role": one.role, "content": one.content} for one in request.messages]
        return "/chat/completions", {**body, "messages": messages}

    def _refusals(self, refused: dict[int, str], total: int) -> EngineError:
        shown = [f"{index + 1}: {refused[index]}" for index in sorted(refused)[:_SHOWN_REFUSALS]]
        more = f" and {len(refused) - len(shown)} more" if len(refused) > len(shown) else ""
        return EngineError(
            f"{len(refused)} of {total} requests were refused ({'; '.join(shown)}{more})",
            where=self._url,
            fix="The others are answered; mend what is refused and run it again",
        )


def read_completion(document: dict[str, Any], *, seconds: float) -> Reply | None:
    """The output of a chat or text completion; ``None`` if the document holds none."""
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return None
    message = choice.get("message")
    source = message if isinstance(message, dict) else {"content": choice.get("text")}
    content = source.get("content")
    if content is None and isinstance(message, dict):
        # A model may say nothing, or decline apart: an answer that cannot be read, and no failure.
        content = source.get("refusal") or ""
    thought = source.get("reasoning_content") or source.get("reasoning")
    if not isinstance(content, str) and not isinstance(thought, str):
        return None
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("completion_tokens_details")
    details = details if isinstance(details, dict) else {}
    is_apart = isinstance(thought, str) and bool(thought)
    return Reply(
        text=join_reasoning(thought if isinstance(thought, str) else "", content or ""),
        finish_reason=_finish(choice.get("finish_reason")),
        num_prompt_tokens=_count(usage.get("prompt_tokens")),
        num_tokens=_count(usage.get("completion_tokens")),
        seconds=seconds,
        num_thinking_tokens=_count(details.get("reasoning_tokens")),
        open_in_prompt=False if is_apart else None,
    )


def join_reasoning(thought: str, content: str) -> str:
    """Reasoning and answer as one output; without an answer the thinking stays open.

    A server that gives the reasoning twice, apart and in the text, gives it once here.
    """
    if not thought.strip() or "</think>" in content:
        return content
    if not content.strip():
        return f"<think>\n{thought.strip()}"
    return f"<think>\n{thought.strip()}\n</think>\n\n{content.lstrip()}"


def _echoed(document: dict[str, Any], *, start: int, end: int) -> float | None:
    """Sum of the log-probabilities of the tokens that begin in a span of the echoed text."""
    try:
        logprobs = document["choices"][0]["logprobs"]
        offsets, values = logprobs["text_offset"], logprobs["token_logprobs"]
        chosen = [value for offset, value in zip(offsets, values) if start <= offset < end]
        return float(sum(chosen)) if chosen and offsets[0] == 0 else None
    except (KeyError, IndexError, TypeError):
        return None


def _pieces(line: str) -> tuple[str, str, FinishReason | None]:
    """Reasoning and text of a line of a server-sent event, and why the output ends there."""
    if not line.startswith("data:") or line.removeprefix("data:").strip() in ("", "[DONE]"):
        return "", "", None
    try:
        choice = json.loads(line.removeprefix("data:"))["choices"][0]
    except (ValueError, KeyError, IndexError, TypeError):
        return "", "", None
    delta = choice.get("delta") or {}
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    ended = choice.get("finish_reason")
    text = delta.get("content") or choice.get("text") or ""
    return thought, text, None if ended is None else _finish(ended)


def _finish(reason: Any) -> FinishReason:
    return "length" if str(reason).lower() in _CUT_OFF else "stop"


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
