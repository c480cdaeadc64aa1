"""In which order samples are drawn: one seeded permutation a cluster, fixed before the first draw.

A draw from an arm is the next sample of its permutation, so *what* is drawn never depends on how draws are
scheduled, only on how many each arm has had. The permutations of all arms are one int32 array, sorted by arm.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb.types import IntArray

Order = npt.NDArray[np.int32]


def shuffled(labels_N: npt.NDArray[np.int32], rng: np.random.Generator) -> Order:
    """Return the drawable samples (label 0 or more) in a random order."""
    order = np.flatnonzero(labels_N >= 0).astype(np.int32)
    rng.shuffle(order)
    return order


@dataclass(frozen=True, slots=True, eq=False)
class ArmOrder:
    """Samples sorted by arm and shuffled inside it: arm k's are `order[starts_K[k]:starts_K[k + 1]]`."""

    order: Order
    starts_K: IntArray

    @classmethod
    def of(cls, labels_N: npt.NDArray[np.int32], num_arms: int, rng: np.random.Generator) -> "ArmOrder":
        """Shuffle the pool once and sort it, stably, by arm."""
        order = shuffled(labels_N, rng)
        arms = labels_N[order]
        if num_arms <= 2**15:
            arms = arms.astype(np.int16)  # numpy sorts 16-bit keys by radix
        sizes_K = np.bincount(arms, minlength=num_arms)
        return cls(order[np.argsort(arms, kind="stable")], np.concatenate(([0], np.cumsum(sizes_K))))

    def take(self, arms: IntArray, counts: IntArray, drawn_K: IntArray) -> IntArray:
        """Return the next `counts[i]` samples of `arms[i]`, of which `drawn_K` are gone already."""
        ends = np.cumsum(counts)
        first = self.starts_K[arms] + drawn_K[arms]
        positions: IntArray = np.arange(int(counts.sum())) + np.repeat(first - ends + counts, counts)
        return self.order[positions].astype(np.int64)

    def rest(self, drawn_K: IntArray) -> IntArray:
        """Return the samples not drawn yet."""
        arms = np.arange(len(drawn_K))
        return self.take(arms, np.diff(self.starts_K) - drawn_K, drawn_K)


@dataclass(frozen=True, slots=True, eq=False)
class PoolOrder:
    """One permutation of the whole pool, for allocators that don't look at arms."""

    order: Order

    @classmethod
    def of(cls, labels_N: npt.NDArray[np.int32], rng: np.random.Generator) -> "PoolOrder":
        """Shuffle the pool."""
        return cls(shuffled(labels_N, rng))

    def take(self, count: int, drawn: int) -> IntArray:
        """Return the next `count` samples, of which `drawn` are gone already."""
        return self.order[drawn : drawn + count].astype(np.int64)

    def rest(self, drawn: int) -> IntArray:
        """Return the samples not drawn yet."""
        return self.order[drawn:].astype(np.int64)
