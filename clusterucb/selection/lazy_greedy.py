"""Lazy greedy maximisation of a submodular function: each step takes the element of largest gain.

What makes it lazy (Minoux 1978): gains only fall as elements are added, so a gain computed earlier bounds the one now,
and only elements whose bound is on top are computed again. Invariant: it takes what plain greedy takes, equal gains by
position, as long as rounding does not decide. Elements are computed again several at a time, because one matrix product
of a few rows costs little more than that of one.
"""

import heapq
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]

_BLOCK = 256
_FIRST = 8


class Objective(Protocol):
    """A submodular function of a set that elements are added to."""

    def gains(self, elements: IntArray) -> Real:
        """Return what adding each of these would bring now. Called with at most 256 of them."""
        ...

    def add(self, element: int) -> None:
        """Add an element."""
        ...


class Gate(Protocol):
    """Says of elements whether they may be taken, and hears which are."""

    def admits(self, position: int) -> bool:
        """Say whether it may be taken; a no is for good."""
        ...

    def take(self, position: int) -> None:
        """Hear that it is taken."""
        ...


def lazy_greedy(objective: Objective, num_elements: int, count: int, gate: Gate) -> IntArray:
    """Return up to `count` elements in the order in which they are taken; fewer where the gate admits no more."""
    blocks = [np.arange(start, min(start + _BLOCK, num_elements)) for start in range(0, num_elements, _BLOCK)]
    bounds = [gain for block in blocks for gain in objective.gains(block).tolist()]
    heap = [(-bound, element) for element, bound in enumerate(bounds)]
    heapq.heapify(heap)
    computed_at = [0] * num_elements
    taken: list[int] = []
    while heap and len(taken) < count:
        size = _FIRST
        while heap and computed_at[heap[0][1]] < len(taken):
            stale: list[int] = []
            while heap and len(stale) < size and computed_at[heap[0][1]] < len(taken):
                stale.append(heapq.heappop(heap)[1])
            for element, gain in zip(stale, objective.gains(np.array(stale)).tolist(), strict=True):
                computed_at[element] = len(taken)
                heapq.heappush(heap, (-gain, element))
            size = min(2 * size, _BLOCK)
        element = heapq.heappop(heap)[1]
        if gate.admits(element):
            gate.take(element)
            objective.add(element)
            taken.append(element)
    return np.array(taken, dtype=np.int64)
