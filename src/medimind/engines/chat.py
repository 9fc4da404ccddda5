"""How a request becomes token ids: the tokenizer and the template of the model that is asked.

Needs neither llama.cpp nor torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medimind.engines.engine import Decoding, OptionRequest, Request
from medimind.prompts.chat import render_chat
from medimind.prompts.render import opens_reasoning
from medimind.prompts.templates import Template
from medimind.prompts.tokenizer import Tokenizer

NATIVE_CLOSE = "\n</think>\n\n"
"""What closes the thinking where the checkpoint's own chat template is used."""


@dataclass(frozen=True, slots=True)
class Chat:
    """How a model is asked.

    Attributes:
        tokenizer: The model's.
        template: How chats are rendered; ``None`` is the checkpoint's own chat template.
    """

    tokenizer: Tokenizer
    template: Template | None

    def ids(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """The token ids that the answer to a chat continues.

        Raises:
            PromptError: As `render_chat`.
        """
        return render_chat(messages, template=self.template, tokenizer=self.tokenizer)

    def prompt_ids(self, request: Request) -> list[int]:
        """The token ids that the output to a request continues; BOS stands there once.

        Raises:
            PromptError: As `render_chat`.
        """
        if request.prompt is None:
            ids = self.ids([(message.role, message.content) for message in request.messages])
        else:
            ids = self.tokenizer.encode(request.prompt)
            bos = self.tokenizer.bos_id
            if self.tokenizer.adds_bos and bos is not None and ids[:1] != [bos]:
                ids = [bos, *ids]
        return [*ids, *self.tokenizer.encode(request.prefill)] if request.prefill else ids

    def option_ids(self, request: Request) -> list[int]:
        """The same for continuations that are scored: an empty thinking stands before them.

        Raises:
            PromptError: As `render_chat`.
        """
        if request.prompt is not None:
            return self.prompt_ids(request)
        ids = self.prompt_ids(dataclasses.replace(request, prefill=""))
        return [*ids, *self.tokenizer.encode(self._empty_thinking(ids) + request.prefill)]

    def stop(self, decoding: Decoding) -> tuple[str, ...]:
        """Texts that end an output: the template's and those asked for."""
        own = () if self.template is None else self.template.stop
        return (*own, *(text for text in decoding.stop if text not in own))

    @property
    def reasoning_close(self) -> str:
        """What closes the thinking by force; empty where the template knows no thinking."""
        return self.template.reasoning_close if self.template else NATIVE_CLOSE

    def sum_options(
        self,
        requests: Sequence[OptionRequest],
        *,
        logprob: Callable[[list[int], int], float],
        on_logprobs: Callable[[int, list[float]], None] | None,
    ) -> list[list[float]]:
        """Log-probability (nats) of each continuation, asked for token by token.

        Args:
            requests: Prompts with their continuations.
            logprob: That of one token after a prompt.
            on_logprobs: Gets each index with its figures.
        """
        found = []
        for index, one in enumerate(requests):
            prompt = self.option_ids(one.request)
            texts = self.tokenizer.encode_plain(one.continuations)
            found.append(
                [
                    sum(
                        logprob([*prompt, *text.ids[:place]], token_id)
                        for place, token_id in enumerate(text.ids)
                    )
                    for text in texts
                ]
            )
            if on_logprobs is not None:
                on_logprobs(index, found[-1])
        return found

    def _empty_thinking(self, ids: Sequence[int]) -> str:
        if self.template is None:
            return NATIVE_CLOSE if opens_reasoning(ids, tokenizer=self.tokenizer) else ""
        opening = "" if self.template.open_in_prompt else self.template.reasoning_open
        return opening + self.template.reasoning_close
