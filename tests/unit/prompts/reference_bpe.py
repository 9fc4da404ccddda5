"""Byte-level BPE as its paper has it (Sennrich et al., 2016), slow and independent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import regex

LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def smollm_words(text: str) -> list[str]:
    parts = regex.findall(r"\p{N}|\P{N}+", text)
    return [word for part in parts for word in regex.findall(GPT2, part)]


def bytes_to_characters() -> dict[int, str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in table)
    return table | {byte: chr(256 + index) for index, byte in enumerate(others)}


class ReferenceBpe:
    def __init__(
        self, vocab: Mapping[str, int], merges: list[tuple[str, str]], *, ignore_merges: bool
    ) -> None:
        self.vocab = vocab
        self.ranks = {merge: rank for rank, merge in enumerate(merges)}
        self.ignore_merges = ignore_merges
        self.characters = bytes_to_characters()
        self.cache: dict[str, list[int]] = {}

    def ids(self, words: list[str]) -> list[int]:
        return [token_id for word in words for token_id in self.word_ids(word)]

    def word_ids(self, word: str) -> list[int]:
        if word not in self.cache:
            self.cache[word] = self._merge("".join(self.characters[b] for b in word.encode()))
        return self.cache[word]

    def _merge(self, word: str) -> list[int]:
        if self.ignore_merges and word in self.vocab:
            return [self.vocab[word]]
        parts = list(word)
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(range(len(pairs)), key=lambda i: self.ranks.get(pairs[i], len(self.ranks)))
            if pairs[best] not in self.ranks:
                break
            parts[best : best + 2] = ["".join(pairs[best])]
        return [self.vocab[part] for part in parts]
