"""One output while it grows: its text, and what ends it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from medimind.prompts.stream import StreamDecoder


@dataclass(frozen=True, slots=True)
class RowLimits:
    """What ends an output, or its thinking.

    Attributes:
        max_new_tokens: Longest output.
        eos_ids: Tokens that end it.
        stop: Texts that end it.
        thinking_budget: Tokens after which the thinking is closed by force.
        close_tag: Text that shows the thinking is closed; empty where there is no thinking.
        close_ids: Tokens that close it by force.
    """

    max_new_tokens: int
    eos_ids: frozenset[int]
    stop: tuple[str, ...]
    thinking_budget: int | None
    close_tag: str
    close_ids: tuple[int, ...]

    def within(self, max_new_tokens: int) -> RowLimits:
        """The same with fewer tokens."""
        return replace(self, max_new_tokens=max_new_tokens)


class OutputRow:
    """One output while it grows.

    Attributes:
        index: Which prompt it belongs to.
        limits: What ends it.
        token_ids: The tokens so far.
        text: Their text; without EOS, cut before a stop string.
        finish_reason: Why it ended; ``None`` while it is open.
    """

    def __init__(self, index: int, decoder: StreamDecoder, limits: RowLimits) -> None:
        self.index = index
        self.limits = limits
        self.token_ids: list[int] = []
        self.text = ""
        self.finish_reason: Literal["stop", "length"] | None = None
        self._decoder = decoder
        self._forced: list[int] = []
        self._closed_after: int | None = None
        self._taken = 0

    @property
    def num_thinking_tokens(self) -> int:
        """Tokens up to and with the one that completed the closing tag; else all."""
        return len(self.token_ids) if self._closed_after is None else self._closed_after

    @property
    def takes_its_last(self) -> bool:
        """Whether the next push ends the output, whatever it takes."""
        is_long = len(self.token_ids) + 1 >= self.limits.max_new_tokens
        return is_long or self.finish_reason is not None

    @property
    def forced(self) -> int | None:
        """The token that the next push takes whatever it is given; ``None`` for none."""
        return self._forced[0] if self._forced else None

    def push(self, token_id: int) -> int:
        """Take the next token, or the one that is forced here; returns what was taken."""
        if self._forced:
            token_id = self._forced.pop(0)
        self.token_ids.append(token_id)
        if token_id in self.limits.eos_ids:
            self._finish("stop")
            return token_id
        self._add_text(self._decoder.push(token_id))
        if self.finish_reason is None:
            if len(self.token_ids) >= self.limits.max_new_tokens:
                self._finish("length")
            elif self._closed_after is None and len(self.token_ids) == self.limits.thinking_budget:
                self._forced = list(self.limits.close_ids)
        return token_id

    def take_text(self) -> str:
        """The text since the last call that no stop string can cut off any more."""
        end = len(self.text) if self.finish_reason else len(self.text) - self._held_back()
        piece = self.text[self._taken : end]
        self._taken = max(self._taken, end)
        return piece

    def _finish(self, reason: Literal["stop", "length"]) -> None:
        self._add_text(self._decoder.finish())
        self.finish_reason = self.finish_reason or reason

    def _add_text(self, piece: str) -> None:
        if not piece:
            return
        before = len(self.text)
        self.text += piece
        tag = self.limits.close_tag
        if tag and self._closed_after is None and self._find(tag, before) >= 0:
            self._closed_after = len(self.token_ids)
        starts = [start for text in self.limits.stop if (start := self._find(text, before)) >= 0]
        if starts:
            self.text = self.text[: min(starts)]
            self.finish_reason = "stop"

    def _find(self, wanted: str, before: int) -> int:
        """Where ``wanted`` begins, if it was completed by text after ``before``; else -1."""
        return self.text.find(wanted, max(0, before - len(wanted) + 1))

    def _held_back(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = 0
        for wanted in self.limits.stop:
            for length in range(min(len(wanted) - 1, len(self.text)), longest, -1):
                if self.text.endswith(wanted[:length]):
                    longest = length
                    break
        return longest
