"""Share a round out where every draw lowers its arm's index: the largest terms of K falling sequences.

Draw by draw one would take the largest of K indices and lower it. The outcome is the `size` largest terms of all
sequences, found by bisecting the level that they reach: a round costs the same for ten draws and for a million.
"""

import heapq
from collections.abc import Callable

import numpy as np

from clusterucb.search.arms import Real
from clusterucb.types import IntArray


def fill_to_level(
    above: Callable[[float], Real],
    term: Callable[[int, int], float],
    low: float,
    high: float,
    capacity_K: IntArray,
    size: int,
) -> IntArray:
    """Return each arm's draws, `size` together where the capacities allow it; equal terms go to the lowest arm.

    `term(k, j)` is arm k's index after j more draws, never rising in j; `above(level)` counts each arm's terms above a
    level, perhaps one too many or too few; `low` and `high` enclose all terms.
    """

    def bounds(level: float) -> tuple[int, IntArray]:
        """Return at least the number of all terms above the level, and at most each arm's."""
        count_K = above(level)
        return int(np.clip(count_K + 1, 0, capacity_K).sum()), np.clip(count_K - 1, 0, capacity_K).astype(np.int64)

    if int(capacity_K.sum()) <= size:
        return capacity_K.copy()
    draws_K = np.zeros_like(capacity_K)
    for _ in range(60):
        middle = (low + high) / 2
        most, surely_K = bounds(middle)
        if most > size:
            low = middle
        else:
            high, draws_K = middle, surely_K
    left = size - int(draws_K.sum())
    heap = [(-term(k, int(draws_K[k])), k) for k in np.flatnonzero(draws_K < capacity_K).tolist()]
    heapq.heapify(heap)
    while left > 0:
        value, k = heapq.heappop(heap)
        room = int(capacity_K[k] - draws_K[k])
        flat = term(k, int(capacity_K[k]) - 1) == -value
        taken = min(left, room) if flat else 1
        draws_K[k] += taken
        left -= taken
        if taken < room:
            heapq.heappush(heap, (-term(k, int(draws_K[k])), k))
    return draws_K
