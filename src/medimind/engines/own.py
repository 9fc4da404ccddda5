"""Our own decoder as an engine: batched, the adapter switched off and on in one model."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from medimind.engines.chat import NATIVE_CLOSE, Chat
from medimind.engines.engine import Decoding, OptionRequest, Reply, Request, Stream, Variant
from medimind.errors import EngineError
from medimind.models.generate import Generation, generate, stream
from medimind.models.load import Model
from medimind.models.lora import adapter_digest, adapter_disabled
from medimind.models.options import Choice, option_logprobs
from medimind.prompts.render import opens_reasoning
from medimind.prompts.templates import Template

_VERSION = 1  # part of every identity: outputs of an older way to generate are asked again


class OwnEngine:
    """A loaded model, with or without an adapter.

    Args:
        model: The model; the adapter attached, if there is one.
        template: How chats are rendered; ``None`` takes the checkpoint's own chat template.
        batch_size: Outputs generated at once.
    """

    def __init__(self, model: Model, *, template: Template | None, batch_size: int = 16) -> None:
        self._model = model
        self._template = template
        self._chat = Chat(model.tokenizer, template)
        self._batch_size = batch_size

    @property
    def name(self) -> str:
        """The base model's name."""
        return self._model.name

    @property
    def variants(self) -> tuple[Variant, ...]:
        """``tuned`` too where there is an adapter."""
        return ("base",) if self._model.decoder.lora is None else ("base", "tuned")

    def identity(self, variant: Variant) -> str:
        """Hash of weights, dtype, tokenizer, template, and of the adapter where it is on."""
        model, template = self._model, self._template
        parts = [
            _VERSION,
            model.sha256,
            model.arithmetic,
            model.quantization,
            model.tokenizer.hash,
            None if template is None else [template.reasoning_open, template.reasoning_close],
            None if template is None else list(template.stop),
            adapter_digest(model.decoder) if variant == "tuned" else None,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def prompt_ids(self, request: Request) -> list[int]:
        """The ids that the output continues; control tokens are read in ``prompt`` alone."""
        return self._chat.prompt_ids(request)

    def answer(
        self,
        requests: Sequence[Request],
        *,
        decoding: Decoding,
        variant: Variant = "base",
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:
        """The outputs in the order of the requests, long prompts first.

        Raises:
            PromptError: A prompt cannot be rendered, or is too long for the model.
        """
        started = time.perf_counter()
        prompts = [self.prompt_ids(request) for request in requests]
        opened = [self._is_open(request, ids) for request, ids in zip(requests, prompts)]
        replies: dict[int, Reply] = {}
        # The thinking can be closed by force only where an output can hold thinking.
        for thinks in sorted(set(opened)):
            chosen = [index for index, is_open in enumerate(opened) if is_open is thinks]

            def finish(number: int, output: Generation, chosen: list[int] = chosen) -> None:
                index = chosen[number]
                seconds = time.perf_counter() - started
                replies[index] = self._reply(prompts[index], output, seconds, opened[index])
                if on_reply is not None:
                    on_reply(index, replies[index])

            with self._switched(variant):
                generate(
                    self._model,
                    [prompts[index] for index in chosen],
                    seed=[requests[index].seed for index in chosen],
                    batch_size=self._batch_size,
                    on_output=finish,
                    **self._limits(decoding, thinks=thinks),
                )
        return [replies[index] for index in range(len(requests))]

    def stream(self, request: Request, *, decoding: Decoding, variant: Variant = "base") -> Stream:
        """The output piece by piece, and why it ended; closing it stops the generation."""
        ids = self.prompt_ids(request)
        limits = self._limits(decoding, thinks=self._is_open(request, ids))
        with self._switched(variant):
            return (yield from stream(self._model, ids, seed=request.seed, **limits))

    def option_logprobs(
        self,
        requests: Sequence[OptionRequest],
        *,
        variant: Variant = "base",
        on_logprobs: Callable[[int, list[float]], None] | None = None,
    ) -> list[list[float]]:
        """Log-probability (nats) of each continuation; an empty thinking is put before.

        Many prompts are read at once, each of them once, and each text is encoded for itself.

        Raises:
            PromptError: A prompt cannot be rendered, or is too long for the model.
        """
        encode = self._model.tokenizer.encode
        choices = [
            Choice(self._chat.option_ids(one.request), [encode(text) for text in one.continuations])
            for one in requests
        ]
        with self._switched(variant):
            return option_logprobs(self._model, choices, on_logprobs=on_logprobs)

    def close(self) -> None:
        """Nothing: whoever loaded the model frees it."""

    def _switched(self, variant: Variant) -> contextlib.AbstractContextManager[None]:
        if variant not in self.variants:
            raise EngineError(
                "the model has no adapter to switch on", where=self.name, fix="Load one first"
            )
        is_off = variant == "base" and self._model.decoder.lora is not None
        return adapter_disabled(self._model.decoder) if is_off else contextlib.nullcontext()

    def _is_open(self, request: Request, ids: Sequence[int]) -> bool:
        """Whether the output starts inside the thinking."""
        template, prefill = self._template, request.prefill
        if template is None or request.prompt is not None:
            if prefill:
                ids = self.prompt_ids(dataclasses.replace(request, prefill=""))
            is_open = opens_reasoning(ids, tokenizer=self._model.tokenizer)
            opening, closing = "<think>", "</think>"
        else:
            is_open = template.open_in_prompt
            opening, closing = template.reasoning_open.strip(), template.reasoning_close.strip()
        if closing and closing in prefill:
            return False
        return is_open or (bool(opening) and opening in prefill)

    def _limits(self, decoding: Decoding, *, thinks: bool) -> dict[str, Any]:
        close = self._chat.reasoning_close
        can_think = thinks or (self._template is not None and bool(close.strip()))
        return {
            "max_new_tokens": decoding.max_new_tokens,
            "thinking_budget": decoding.thinking_budget if can_think else None,
            "reasoning_close": close or NATIVE_CLOSE,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "stop": self._chat.stop(decoding),
        }

    def _reply(
        self, prompt: Sequence[int], output: Generation, seconds: float, is_open: bool
    ) -> Reply:
        template = self._template
        return Reply(
            text=output.text,
            finish_reason=output.finish_reason,
            num_prompt_tokens=len(prompt),
            num_tokens=len(output.token_ids),
            seconds=seconds,
            num_thinking_tokens=output.num_thinking_tokens,
            token_ids=output.token_ids,
            prompt=self._model.tokenizer.decode(prompt),
            open_in_prompt=is_open,
            markers=None
            if template is None
            else (template.reasoning_open.strip(), template.reasoning_close.strip()),
        )
