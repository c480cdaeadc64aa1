"""One round for several targets: each decides its part of the draws, after those that came before it.

Invariant: no arm is asked for more than it has, whichever targets ask; one target alone decides as if there were no
others.
"""

from collections.abc import Sequence

import numpy as np

from clusterucb.search.allocators import Allocator, Draws
from clusterucb.search.arms import ArmStatistics
from clusterucb.types import IntArray


def shares(size: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Divide a round in proportion to the weights, whole draws that add up: evenly cut ends of one line.

    >>> shares(10, (1.0, 1.0, 2.0))
    (2, 3, 5)
    """
    ends = np.floor(size * np.cumsum(weights) / np.sum(weights) + 1e-9).astype(np.int64)
    return tuple(np.diff(ends, prepend=0).tolist())


def shared_draws(allocator: Allocator, arms: Sequence[ArmStatistics], cold_K: IntArray, sizes: Sequence[int]) -> Draws:
    """Return the draws of all targets together; `arms` and `sizes` have one entry a target."""
    if len(arms) == 1:
        return allocator.draws(arms[0], arms[0].capacity_K(cold_K), sizes[0])
    counts_K = np.zeros_like(cold_K)
    for each, size in zip(arms, sizes, strict=True):
        if size:
            draws = allocator.draws(each, each.capacity_K(cold_K) - counts_K, size)
            counts_K[draws.arms] += draws.counts
    drawn = np.flatnonzero(counts_K)
    return Draws(drawn, counts_K[drawn])
