"""GGUF files answered by llama.cpp, through the package ``llama-cpp-python``.

For those who have built that package for their machine or card. It does what
`medimind.engines.llama_cpp` does, one output after the other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from medimind.engines.engine import Decoding, OptionRequest, Reply, Request, Stream, Variant
from medimind.engines.gguf_chat import CONTEXT, files_identity, open_chat
from medimind.engines.llama_library import LlamaLibrary
from medimind.errors import EngineError
from medimind.models.output_row import OutputRow, RowLimits
from medimind.prompts.templates import Template


class LlamaCppPythonEngine:
    """A GGUF file, with an adapter that is switched on or off per request.

    Args:
        model: The file.
        adapter: GGUF LoRA.
        template: As in `LlamaCppEngine`.
        context: Longest prompt and output together, in tokens.
        threads: Of the computation; all cores but one by default.

    Raises:
        CheckpointError: If a file is damaged, or llama.cpp cannot load it.
        MissingExtraError: If llama-cpp-python is not installed.
        PromptError: If the tokenizer is of an unsupported kind.
    """

    def __init__(
        self,
        model: Path,
        *,
        adapter: Path | None = None,
        template: Template | None = None,
        context: int = CONTEXT,
        threads: int | None = None,
    ) -> None:
        self._chat = open_chat(model, adapter=adapter, template=template)
        self.tokenizer, self.template = self._chat.tokenizer, self._chat.template
        self.context = context
        self._model, self._adapter = model, adapter
        self._library = LlamaLibrary(
            model,
            adapter=adapter,
            context=context,
            threads=threads or max(1, (os.cpu_count() or 2) - 1),
        )

    @property
    def name(self) -> str:
        """The file's name."""
        return self._model.name

    @property
    def variants(self) -> tuple[Variant, ...]:
        """``tuned`` too where there is an adapter."""
        return ("base",) if self._adapter is None else ("base", "tuned")

    def identity(self, variant: Variant) -> str:
        """Hash of file, adapter and the release of llama-cpp-python."""
        program = f"llama-cpp-python {version('llama-cpp-python')}"
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
        """The outputs in the order of the requests.

        Raises:
            EngineError: If a prompt does not fit the context, or llama.cpp refuses it.
        """
        replies = []
        for index, request in enumerate(requests):
            started = time.perf_counter()
            prompt = self._fitting(request)
            row = self._row(decoding, room=self.context - len(prompt))
            for _ in self._grow(prompt, row, request, decoding, variant):
                pass
            reply = Reply(
                text=row.text,
                finish_reason=row.finish_reason or "stop",
                num_prompt_tokens=len(prompt),
                num_tokens=len(row.token_ids),
                seconds=time.perf_counter() - started,
                token_ids=tuple(row.token_ids),
            )
            replies.append(reply)
            if on_reply is not None:
                on_reply(index, reply)
        return replies

    def stream(self, request: Request, *, decoding: Decoding, variant: Variant = "base") -> Stream:
        """The output piece by piece, and why it ended; closing it stops the generation.

        Raises:
            EngineError: As `answer`.
        """
        prompt = self._fitting(request)
        row = self._row(decoding, room=self.context - len(prompt))
        yield from filter(None, self._grow(prompt, row, request, decoding, variant))
        return row.finish_reason or "stop"

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
            logprob=lambda ids, token_id: float(self._logprobs(ids, variant)[token_id]),
            on_logprobs=on_logprobs,
        )

    def next_logprobs(
        self, ids: Sequence[int], *, most: int, variant: Variant = "base"
    ) -> dict[int, float]:
        """The likeliest next tokens with their log-probabilities (nats), likeliest first."""
        logprobs_V = self._logprobs(ids, variant)
        order = np.argsort(-logprobs_V, kind="stable")[:most]
        return {int(token_id): float(logprobs_V[token_id]) for token_id in order}

    def tokenize(self, text: str) -> list[int]:
        """The ids that llama.cpp itself gives a text, control tokens read; no BOS is added."""
        return self._library.tokenize(text)

    def close(self) -> None:
        """Free the model."""
        self._library.close()

    def _fitting(self, request: Request) -> list[int]:
        ids = self.prompt_ids(request)
        if len(ids) >= self.context:
            raise EngineError(
                f"the prompt has {len(ids)} tokens, the context only {self.context}",
                where=self.name,
                fix="Shorten the chat, or give a longer context",
            )
        return ids

    def _row(self, decoding: Decoding, *, room: int) -> OutputRow:
        close = self._chat.reasoning_close
        limits = RowLimits(
            max_new_tokens=min(decoding.max_new_tokens, room),
            eos_ids=self._library.end_ids,
            stop=self._chat.stop(decoding),
            thinking_budget=decoding.thinking_budget,
            close_tag=close.strip(),
            close_ids=tuple(self.tokenizer.encode(close)),
        )
        return OutputRow(0, self.tokenizer.stream_decoder(), limits)

    def _grow(
        self,
        prompt: Sequence[int],
        row: OutputRow,
        request: Request,
        decoding: Decoding,
        variant: Variant,
    ) -> Iterator[str]:
        """Add tokens to an output until it ends; the text that each makes certain."""
        sampler = self._library.sampler(
            temperature=decoding.temperature, top_p=decoding.top_p, seed=request.seed
        )
        try:
            while row.finish_reason is None:
                token_id = row.forced
                if token_id is None:
                    token_id = self._library.next_token(
                        [*prompt, *row.token_ids], adapter_on=variant == "tuned", sampler=sampler
                    )
                row.push(token_id)
                yield row.take_text()
        finally:
            self._library.free_sampler(sampler)

    def _logprobs(self, ids: Sequence[int], variant: Variant) -> np.ndarray:
        logits_V = self._library.logits(ids, adapter_on=variant == "tuned").astype(np.float64)
        logits_V -= logits_V.max()
        return logits_V - np.log(np.exp(logits_V).sum())
