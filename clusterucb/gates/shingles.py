"""The set of word sequences of every row, on disk while the gates work, and exact similarities of pairs of rows.

A set is ascending 32-bit numbers, its rows end to end. Two different sequences share a number once in 4e9 pairs, which
changes a similarity by less than what it is reported with.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clusterucb.gates.words import Sequences
from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]
Sets = npt.NDArray[np.uint32]
_AT_A_TIME = 2**21  # numbers compared at a time


class ShingleWriter:
    """Appends sets to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._sizes: list[IntArray] = []

    def add(self, found: Sequences) -> None:
        """Append the sets of a block of rows."""
        rows_G = np.repeat(np.arange(len(found.offsets) - 1), np.diff(found.offsets)).astype(np.uint64)
        distinct = np.unique((rows_G << np.uint64(32)) | (found.hashes_G >> np.uint64(32)))
        self._file.write((distinct & np.uint64(0xFFFFFFFF)).astype(np.uint32).tobytes())
        self._sizes.append(np.bincount((distinct >> np.uint64(32)).astype(np.int64), minlength=len(found.offsets) - 1))

    def close(self) -> "Shingles":
        """Return the sets, memory-mapped."""
        self._file.close()
        offsets = np.concatenate([np.zeros(1, np.int64), *self._sizes]).cumsum()
        numbers = np.memmap(self._path, np.uint32, "r") if offsets[-1] else np.empty(0, np.uint32)
        return Shingles(numbers, offsets)


class Shingles:
    """The sets of N rows."""

    def __init__(self, numbers: Sets, offsets: IntArray) -> None:
        self._numbers = numbers
        self._offsets = offsets
        self.sizes_N: IntArray = np.diff(offsets)

    def similarities(self, left_P: IntArray, right_P: IntArray, tick: Callable[[], None]) -> Real:
        """Return the Jaccard similarity of each of P pairs of rows; 0 where a set is empty."""
        both_P = self.sizes_N[left_P] + self.sizes_N[right_P]
        shared_P = np.empty(len(both_P), np.int64)
        for part in _parts(both_P):
            rows = np.concatenate((left_P[part], right_P[part]))
            both: IntArray = np.asarray([*range(part.stop - part.start)] * 2, np.int64)
            sizes = self.sizes_N[rows]
            starts = np.repeat(self._offsets[rows] - (np.cumsum(sizes) - sizes), sizes)
            numbers = self._numbers[starts + np.arange(len(starts))].astype(np.uint64)
            keyed = np.sort((np.repeat(both, sizes).astype(np.uint64) << np.uint64(32)) | numbers)
            twice = keyed[1:][keyed[1:] == keyed[:-1]]
            shared_P[part] = np.bincount((twice >> np.uint64(32)).astype(np.int64), minlength=part.stop - part.start)
            tick()
        return np.divide(shared_P, both_P - shared_P, out=np.zeros(len(both_P)), where=both_P > shared_P)


def _parts(sizes_P: IntArray) -> Iterator[slice]:
    """Yield runs of pairs that hold `_AT_A_TIME` numbers together, or one pair."""
    ends, start = np.cumsum(sizes_P), 0
    while start < len(sizes_P):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _AT_A_TIME, side="right")))
        yield slice(start, stop)
        start = stop
