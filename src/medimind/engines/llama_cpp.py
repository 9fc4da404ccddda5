"""GGUF files answered by llama.cpp, through the prebuilt wheel of ``xllamacpp``.

Prompts go in as token ids that *our* tokenizer and template made: what a user writes is never read
as control tokens, and a file that we exported is asked by the template that it was tuned with.
"""

from __future__ import annotations

import json
import math
import os
import queue
import secrets
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from medimind.engines.engine import (
    Decoding,
    FinishReason,
    OptionRequest,
    Reply,
    Request,
    Stream,
    Variant,
)
from medimind.engines.gguf_chat import CONTEXT, files_identity, open_chat
from medimind.engines.llama_server import start_llama
from medimind.errors import EngineError
from medimind.prompts.templates import Template

_MOST_TRIED = 256

Event = dict[str, Any]


class LlamaCppEngine:
    """A GGUF file, with an adapter that is switched on or off per request.

    Args:
        model: The file.
        adapter: GGUF LoRA.
        template: How chats are rendered; by default as the adapter or the file says (exports name
            the template that was trained with), else by the checkpoint's own chat template.
        context: Longest prompt and output together, in tokens.
        parallel: Outputs generated at a time; each has its own context.
        threads: Of the computation; all cores but one by default.

    Raises:
        CheckpointError: If a file is damaged, or llama.cpp cannot load it.
        MissingExtraError: If xllamacpp is not installed.
        PromptError: If the tokenizer is of an unsupported kind.
    """

    def __init__(
        self,
        model: Path,
        *,
        adapter: Path | None = None,
        template: Template | None = None,
        context: int = CONTEXT,
        parallel: int = 1,
        threads: int | None = None,
    ) -> None:
        self._chat = open_chat(model, adapter=adapter, template=template)
        self.tokenizer, self.template = self._chat.tokenizer, self._chat.template
        self.context = context
        self._plain_id = self.tokenizer.encode("a")[0]
        self._model, self._adapter, self._parallel = model, adapter, parallel
        # llama.cpp listens on a loopback port whether one wants it or not: nobody knows this key.
        self._key = secrets.token_urlsafe(32)
        self._server: Any = start_llama(
            model,
            key=self._key,
            adapter=adapter,
            context=context,
            parallel=parallel,
            threads=threads or max(1, (os.cpu_count() or 2) - 1),
        )
        # One token now: a server that is closed before its loop has begun would wait for ever.
        self._complete({"prompt": [self._plain_id], "n_predict": 1, "cache_prompt": False}, None)

    @property
    def name(self) -> str:
        """The file's name."""
        return self._model.name

    @property
    def variants(self) -> tuple[Variant, ...]:
        """``tuned`` too where there is an adapter."""
        return ("base",) if self._adapter is None else ("base", "tuned")

    def identity(self, variant: Variant) -> str:
        """Hash of file, adapter and the release of llama.cpp."""
        program = version("xllamacpp")
        return files_identity(self._model, adapter=self._adapter, variant=variant, program=program)

    def prompt_ids(self, request: Request) -> list[int]:
        """The token ids that the output continues."""
        return self._chat.prompt_ids(request)

    def answer(
        self,
        requests: Sequence[Request],
        *,
        decoding: Decoding,
        variant: Variant = "base",
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:
        """The outputs in the order of the requests, ``parallel`` at a time.

        Raises:
            EngineError: If a prompt does not fit the context, or llama.cpp refuses it.
        """
        lock = threading.Lock()

        def one(index: int) -> Reply:
            reply = self._reply(requests[index], decoding=decoding, variant=variant)
            if on_reply is not None:
                with lock:
                    on_reply(index, reply)
            return reply

        with ThreadPoolExecutor(self._parallel) as pool:
            return list(pool.map(one, range(len(requests))))

    def stream(self, request: Request, *, decoding: Decoding, variant: Variant = "base") -> Stream:
        """The output piece by piece, and why it ended; closing it stops the generation.

        Raises:
            EngineError: As `answer`.
        """
        pieces: queue.SimpleQueue[str | Exception | Reply] = queue.SimpleQueue()
        is_closed = threading.Event()

        def on_text(text: str) -> bool:
            pieces.put(text)
            return is_closed.is_set()

        def work() -> None:
            try:
                pieces.put(
                    self._reply(request, decoding=decoding, variant=variant, on_text=on_text)
                )
            except Exception as error:
                pieces.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while isinstance(piece := pieces.get(), str):
                yield piece
            if isinstance(piece, Exception):
                raise piece
            return piece.finish_reason
        finally:
            is_closed.set()
            worker.join()

    def option_logprobs(
        self,
        requests: Sequence[OptionRequest],
        *,
        variant: Variant = "base",
        on_logprobs: Callable[[int, list[float]], None] | None = None,
    ) -> list[list[float]]:
        """Log-probability (nats) of each continuation, token by token."""
        return self._chat.sum_options(
            requests,
            logprob=lambda ids, token_id: self.next_logprob(ids, token_id, variant=variant),
            on_logprobs=on_logprobs,
        )

    def next_logprob(self, ids: Sequence[int], token_id: int, *, variant: Variant) -> float:
        """Log-probability of one token after a prompt."""
        for most in (_MOST_TRIED, self.tokenizer.vocab_size):
            found = self.next_logprobs(ids, most=most, variant=variant).get(token_id)
            if found is not None:
                return found
        return -math.inf

    def next_logprobs(
        self, ids: Sequence[int], *, most: int, variant: Variant = "base"
    ) -> dict[int, float]:
        """The likeliest next tokens with their log-probabilities (nats), likeliest first.

        What was computed for an earlier prompt with the same beginning is used again.
        """
        # Probabilities come only with a token that has a text, so one is forced; they are those
        # from before that.
        body = {"prompt": list(ids), "n_predict": 1, "temperature": 0, "n_probs": most}
        body["logit_bias"] = [[self._plain_id, 1000.0]]
        reply = self._complete({**body, **self._switch(variant)}, None)
        content = reply["choices"][0]["logprobs"]["content"]
        return {top["id"]: top["logprob"] for top in content[0]["top_logprobs"]}

    def tokenize(self, text: str) -> list[int]:
        """The ids that llama.cpp itself gives a text, control tokens read; no BOS is added."""
        body = json.dumps({"content": text, "add_special": False, "parse_special": True})
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        url = f"{self._server.listening_address}/tokenize"
        request = urllib.request.Request(url, data=body.encode(), headers=headers)
        with urllib.request.urlopen(request, timeout=60) as reply:  # our own loopback port
            return json.load(reply)["tokens"]

    def close(self) -> None:
        """Free the model."""
        self._server = None

    def _reply(
        self,
        request: Request,
        *,
        decoding: Decoding,
        variant: Variant,
        on_text: Callable[[str], bool] | None = None,
    ) -> Reply:
        started = time.perf_counter()
        prompt = self.prompt_ids(request)
        output = _Output(on_text)
        budget = decoding.thinking_budget
        limit = decoding.max_new_tokens
        body = {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "seed": request.seed & 0xFFFFFFFF,
            "stop": list(self._chat.stop(decoding)),
            "stream": True,
            **self._switch(variant),
        }
        if budget is not None and budget < limit:
            # n_probs makes llama.cpp name the ids, from which the second part goes on.
            self._generate({**body, "prompt": prompt, "n_predict": budget, "n_probs": 1}, output)
            close = self._chat.reasoning_close
            is_thinking = close.strip() not in output.text
            if output.finish_reason == "length":
                if is_thinking:
                    output.force(close, self.tokenizer.encode(close))
                output.num_tokens = len(output.ids)
                rest = max(1, limit - len(output.ids))
                ids = [*prompt, *output.ids]
                self._generate({**body, "prompt": ids, "n_predict": rest}, output)
        else:
            self._generate({**body, "prompt": prompt, "n_predict": limit}, output)
        return Reply(
            text=output.text,
            finish_reason=output.finish_reason,
            num_prompt_tokens=len(prompt),
            num_tokens=output.num_tokens,
            seconds=time.perf_counter() - started,
        )

    def _generate(self, body: dict[str, Any], output: _Output) -> None:
        room = self.context - len(body["prompt"])
        if room < 1:
            raise EngineError(
                f"the prompt has {len(body['prompt'])} tokens, the context only {self.context}",
                where=self.name,
                fix="Shorten the chat, or give a longer context",
            )
        output.finish_reason = "cancelled"  # until the last event says otherwise
        self._complete({**body, "n_predict": min(body["n_predict"], room)}, output.take)

    def _complete(
        self, body: dict[str, Any], on_event: Callable[[Event], bool] | None
    ) -> dict[str, Any]:
        if self._server is None:
            raise EngineError("the engine is closed", where=self.name)
        failed: list[dict[str, Any]] = []

        def watch(event: Event) -> bool:
            if "error" in event:
                failed.append(event)
                return True
            return on_event(event) if on_event else False

        reply = (
            self._server.handle_completions(body, watch)
            if body.get("stream")
            else self._server.handle_completions(body)
        )
        error = (failed or [reply or {}])[0].get("error")
        if error is not None:
            raise EngineError(f"llama.cpp refuses: {error.get('message', error)}", where=self.name)
        return reply

    def _switch(self, variant: Variant) -> dict[str, Any]:
        if variant == "tuned" and self._adapter is None:
            raise EngineError(
                "no adapter is loaded", where=self.name, fix="Give one, or ask the base model"
            )
        return {"lora": [{"id": 0, "scale": 1.0 if variant == "tuned" else 0.0}]}


class _Output:
    """An output as it grows."""

    def __init__(self, on_text: Callable[[str], bool] | None) -> None:
        self.text = ""
        self.ids: list[int] = []
        self.num_tokens = 0
        self.finish_reason: FinishReason = "length"
        self._on_text = on_text
        self._is_cancelled = False

    def take(self, event: Event) -> bool:
        """Add an event's text; whether to stop."""
        choice = event["choices"][0]
        for token in (choice.get("logprobs") or {}).get("content", ()):
            self.ids.append(token["id"])
        if choice.get("finish_reason"):
            self.finish_reason = cast(FinishReason, choice["finish_reason"])
            self.num_tokens += event.get("usage", {}).get("completion_tokens", 0)
        return self._add(choice.get("text", ""))

    def force(self, text: str, ids: Sequence[int]) -> None:
        """Add what the model did not choose."""
        self.ids += ids
        self.num_tokens += len(ids)
        self._add(text)

    def _add(self, text: str) -> bool:
        self.text += text
        if text and self._on_text is not None:
            self._is_cancelled = self._on_text(text) or self._is_cancelled
        return self._is_cancelled
