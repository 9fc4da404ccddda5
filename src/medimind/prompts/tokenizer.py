"""Text to token ids and back, with the `tokenizers` library alone.

transformers is left out on purpose: some of its releases lose the spaces when ``AutoTokenizer``
loads an R1-distill tokenizer, because the class named in its files rebuilds the tokenizer instead
of reading ``tokenizer.json``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import tokenizers

from medimind.errors import PromptError
from medimind.prompts.plain_encoder import is_control, puts_prefix_space, without_control_tokens
from medimind.prompts.stream import StreamDecoder
from medimind.prompts.tokenizer_definition import TokenizerDefinition
from medimind.prompts.tokenizer_folder import read_folder
from medimind.prompts.tokenizer_gguf import read_gguf_tokenizer

REASONING_TAGS = ("<think>", "</think>")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a text, and where in the text each token starts (in characters)."""

    ids: list[int]
    starts: list[int]


class Tokenizer:
    """A checkpoint's tokenizer.

    Padding is never recognised by its id: ``pad_id`` often equals ``eos_id`` in published files,
    and a mask made from it would hide EOS, so that the model never learns to stop.

    Attributes:
        bos_id: The token that begins a text; ``None`` where there is none.
        eos_id: The token that ends a text; ``None`` where there is none.
        pad_id: The padding token as published; for information and for writing files.
        adds_bos: Whether a text of this checkpoint begins with BOS.
        chat_template: Jinja source of the checkpoint's own chat template.
    """

    def __init__(self, definition: TokenizerDefinition) -> None:
        self._definition = definition
        self._backend = definition.backend
        self._added = dict(self._backend.get_added_tokens_decoder())
        self._control_ids = frozenset(
            token_id for token_id, token in self._added.items() if is_control(token)
        )
        self._hidden_ids = frozenset(
            token_id
            for token_id, token in self._added.items()
            if token.special and token.content not in REASONING_TAGS
        )
        self.bos_id = self._id_of(definition.bos, "BOS")
        self.eos_id = self._id_of(definition.eos, "EOS")
        self.pad_id = self._id_of(definition.pad, "padding")
        self.adds_bos = definition.adds_bos and self.bos_id is not None
        self.chat_template = definition.chat_template
        self._prefix_space = puts_prefix_space(self._backend)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, where={self._definition.where!r})"

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of everything that decides which ids a text gets."""
        parts = [self._backend.to_str(), self.bos, self.eos, self.pad, self.adds_bos]
        return hashlib.sha256(json.dumps([*parts, self.chat_template]).encode()).hexdigest()

    @property
    def where(self) -> str:
        """The file or folder it was read from."""
        return self._definition.where

    @property
    def bos(self) -> str | None:
        """Text of the BOS token."""
        return self._definition.bos

    @property
    def eos(self) -> str | None:
        """Text of the EOS token."""
        return self._definition.eos

    @property
    def pad(self) -> str | None:
        """Text of the padding token."""
        return self._definition.pad

    def token_id(self, text: str) -> int | None:
        """Id of the token that is exactly ``text``; ``None`` where there is none."""
        return self._backend.token_to_id(text)

    def is_control(self, text: str) -> bool:
        """Whether ``text`` is a token of its own beside the vocabulary (``<think>``, EOS, ...)."""
        return self.token_id(text) in self._control_ids

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, control tokens written in it included; no BOS or EOS is added."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """:meth:`encode` for many texts at once, on all cores."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_plain(self, texts: Sequence[str], *, at_start: bool = False) -> list[Encoded]:
        """Ids of texts in which nothing is a control token.

        Text of a user or a data set goes through here: ``<|im_end|>`` written in a question
        becomes ordinary tokens and cannot end the turn.

        Args:
            texts: The texts.
            at_start: Whether the texts begin a sequence. Only tokenizers of the SentencePiece
                kind care, which put a space before a text's first word.
        """
        first = self._plain if self._prefix_space and not at_start else self._backend
        encodings = first.encode_batch(list(texts), add_special_tokens=False)
        result = []
        for text, encoding in zip(texts, encodings):
            if not self._control_ids.isdisjoint(encoding.ids):
                encoding = self._plain.encode(text, add_special_tokens=False)
            result.append(Encoded(encoding.ids, [start for start, _ in encoding.offsets]))
        return result

    def split_control(self, text: str) -> list[tuple[str, int | None]]:
        """``text`` cut at its control tokens: ``(piece, token id or None)`` in their order."""
        return [
            (piece, token_id if token_id in self._control_ids else None)
            for piece in self._control_pattern.split(text)
            if piece
            for token_id in (self.token_id(piece),)
        ]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of ``ids``; ``skip_special`` leaves control tokens out, but never ``<think>`` tags.

        Bytes that are no valid UTF-8 become U+FFFD.
        """
        kept = [int(i) for i in ids if not (skip_special and int(i) in self._hidden_ids)]
        return self._backend.decode(kept, skip_special_tokens=False)

    def stream_decoder(self, *, skip_special: bool = True) -> StreamDecoder:
        """A decoder that takes one id at a time and gives the text that became certain."""
        return StreamDecoder(lambda ids: self.decode(ids, skip_special=skip_special))

    def save(self, folder: Path, *, chat_template: str | None = None) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, which transformers reads too.

        ``chat_template`` takes the place of the checkpoint's own.
        """
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "add_bos_token": self.adds_bos,
            "add_eos_token": False,
            "bos_token": self.bos,
            "eos_token": self.eos,
            "pad_token": self.pad,
            "clean_up_tokenization_spaces": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        if chat_template is not None or self.chat_template is not None:
            config["chat_template"] = chat_template or self.chat_template
        text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
        (folder / "tokenizer.json").write_text(self._backend.to_str(), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same tokenizer blind to control tokens; made when a text first needs it."""
        return without_control_tokens(self._backend)

    @cached_property
    def _control_pattern(self) -> re.Pattern[str]:
        contents = {self._added[token_id].content for token_id in self._control_ids}
        longest_first = sorted(contents, key=lambda content: (-len(content), content))
        alternatives = "|".join(map(re.escape, longest_first)) or r"(?!)"
        return re.compile(f"({alternatives})")

    def _id_of(self, text: str | None, what: str) -> int | None:
        if text is None:
            return None
        token_id = self.token_id(text)
        if token_id is None:
            raise PromptError(
                f"the {what} token '{text}' is not in the vocabulary",
                where=self._definition.where,
                fix="Take tokenizer.json and tokenizer_config.json from the same checkpoint",
            )
        return token_id


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
        path: A folder with ``tokenizer.json`` and (where published) ``tokenizer_config.json``, or
            a ``.gguf`` file.

    Raises:
        PromptError: If a file is missing or damaged, or the tokenizer is of an unsupported kind.
    """
    if path.is_dir():
        return Tokenizer(read_folder(path))
    if path.is_file() and path.suffix.lower() == ".gguf":
        return Tokenizer(read_gguf_tokenizer(path))
    if not path.exists():
        raise PromptError(
            "there is no such file or folder",
            where=str(path),
            fix="Give a folder with tokenizer.json, or a .gguf file",
        )
    raise PromptError(
        "this is neither a checkpoint's folder nor a .gguf file",
        where=str(path),
        fix="Give the folder that holds tokenizer.json, or a .gguf file",
    )
