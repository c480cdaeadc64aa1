"""Texts as words, and sequences of words as 64-bit numbers, for many texts at a time.

Words are lower case runs of letters and digits (NFKC); a character of a script without spaces is a word of its own.
Invariants: a sequence has the same number wherever it stands; nothing depends on the process (no salted hash).
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb.types import IntArray

Hashes = npt.NDArray[np.uint64]

_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\W_{_SPACELESS}]+")
_REMEMBERED = 2**20
"""Distinct words whose number is kept at hand."""
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 2**64)


def words_of(text: str) -> list[str]:
    """Return the words of a text."""
    return _WORD.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).lower())


@dataclass(frozen=True, slots=True, eq=False)
class WordBlock:
    """The words of B texts, end to end: those of text i are `words[offsets[i]:offsets[i + 1]]`."""

    words: list[str]
    hashes_W: Hashes
    offsets: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Sequences of words of B texts, end to end: their numbers, and where each starts in the block's words."""

    hashes_G: Hashes
    starts_G: IntArray
    offsets: IntArray


class WordHasher:
    """Gives every word its number; the common ones are looked up."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def block(self, texts: Sequence[str]) -> WordBlock:
        """Return the words of some texts."""
        lists = [words_of(text) for text in texts]
        words = [word for one in lists for word in one]
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(one) for one in lists], out=offsets[1:])
        return WordBlock(words, np.array([self._number(word) for word in words], np.uint64), offsets)

    def _number(self, word: str) -> int:
        number = self._known.get(word)
        if number is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
            self._known[word] = number
        return number


def sequences(block: WordBlock, length: int, whole_if_shorter: bool) -> Sequences:
    """Return every run of `length` words; of a shorter text all its words where asked, else nothing."""
    first_W = np.repeat(block.offsets[:-1], np.diff(block.offsets))
    last_W = np.repeat(block.offsets[1:], np.diff(block.offsets))
    at_W = np.arange(len(first_W))
    taken_W = at_W + length <= last_W
    if whole_if_shorter:
        taken_W |= (at_W == first_W) & (last_W - first_W < length)
    starts_G = np.flatnonzero(taken_W)
    stops_G = np.minimum(starts_G + length, last_W[starts_G])
    offsets = np.concatenate(([0], np.cumsum(taken_W)))[block.offsets]
    return Sequences(_numbers(block.hashes_W, starts_G, stops_G), starts_G, offsets)


def _numbers(hashes_W: Hashes, starts_G: IntArray, stops_G: IntArray) -> Hashes:
    """Return sum of w_i * BASE^i over each run, i counted from its start, mixed: polynomial hashing mod 2^64."""
    powers_W, inverses_W = (_powers(base, len(hashes_W) + 1) for base in (_BASE, _INVERSE))
    sums_W = np.concatenate((np.zeros(1, np.uint64), np.cumsum(hashes_W * powers_W[:-1], dtype=np.uint64)))
    values_G = (sums_W[stops_G] - sums_W[starts_G]) * inverses_W[starts_G]
    return mixed(values_G + (stops_G - starts_G).astype(np.uint64))


def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def mixed(values: Hashes) -> Hashes:
    """Return the values with every bit depending on every bit (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
