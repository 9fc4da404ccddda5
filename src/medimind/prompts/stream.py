"""Text of tokens that arrive one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class StreamDecoder:
    """Gives each piece of text once it can no longer change.

    One character may be spread over several tokens (an emoji, a rare Chinese character). Decoded
    too early its first bytes show as U+FFFD, so a U+FFFD at the end is held back until the next
    token settles it. All pieces together equal the text decoded at once.

    Args:
        decode: Text of a sequence of ids.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._open: list[int] = []
        self._num_given = 0

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; may be empty."""
        self._open.append(token_id)
        text = self._new_text()
        certain = text[:-1] if text.endswith(_REPLACEMENT) else text
        piece = certain[self._num_given :]
        self._num_given = max(self._num_given, len(certain))
        if text and certain == text:
            self._context, self._open, self._num_given = self._open, [], 0
        return piece

    def finish(self) -> str:
        """The text still held back, for when no token follows."""
        piece = self._new_text()[self._num_given :]
        self._context, self._open, self._num_given = self._open, [], 0
        return piece

    def _new_text(self) -> str:
        """Text of the open tokens, decoded behind the last settled ones.

        A decoder may treat the first token of a text specially (leave out its space), hence the
        context.
        """
        before = self._decode(self._context) if self._context else ""
        return self._decode([*self._context, *self._open])[len(before) :]
