"""Words of a text, and hashes of runs of them (``W`` words, ``G`` n-grams)."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Scripts written without spaces: each character counts as a word.
_SPACELESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_WORD = re.compile(f"[{_SPACELESS}]|[^\\W{_SPACELESS}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def words_of(text: str) -> list[str]:
    """The words, in lower case and normal form (NFKC), without punctuation."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text.lower())


def count_words(text: str) -> int:
    """How many words a text has."""
    return len(words_of(text))


def gram_hashes(words: list[str], *, size: int) -> NDArray[np.uint64]:
    """Sorted hashes of the distinct n-grams: uint64, ``G``. Fewer words than ``size`` give none.

    The hash does not change between runs or machines. Two different grams share one with
    probability 2^-64.
    """
    num_grams = len(words) - size + 1
    if num_grams < 1:
        return np.empty(0, dtype=np.uint64)
    hashes_W = np.fromiter(map(_word_hash, words), dtype=np.uint64, count=len(words))
    hashes_G = np.zeros(num_grams, dtype=np.uint64)
    for offset in range(size):
        hashes_G = hashes_G * _FACTOR + hashes_W[offset : offset + num_grams]
        hashes_G ^= hashes_G >> np.uint64(29)
    return np.unique(hashes_G)


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
