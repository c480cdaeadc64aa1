"""Which arms the next draws come from. A strategy ranks arms; a round empties the best, then the next.

Every index is minus infinity for an exhausted arm, which is never drawn, and plus infinity for a live arm without an
observation (every draw of its cold start failed), which gets another cold start. Ties go to the lowest arm.
"""

import heapq
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtr  # pyright: ignore[reportMissingTypeStubs]

from clusterucb import config
from clusterucb.search.arms import ArmStatistics, Real
from clusterucb.search.ledger import buys
from clusterucb.types import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """`counts[i]` draws from `arms[i]`, best arm first."""

    arms: IntArray
    counts: IntArray


class Allocator(Protocol):
    """A strategy: pure, so that a replayed search decides the same."""

    def indices(self, arms: ArmStatistics) -> Real:
        """Return each arm's index; the largest is drawn next."""
        ...

    def draws(self, arms: ArmStatistics, capacity_K: IntArray, size: int) -> Draws:
        """Share at most `size` draws out, no arm getting more than its capacity."""
        ...


def live(arms: ArmStatistics, values_K: Real) -> Real:
    """Put exhausted arms last and unobserved live arms first."""
    return np.where(arms.remaining_K <= 0, -np.inf, np.where(arms.count_K == 0, np.inf, values_K))


class Ranked(ABC):
    """An index that knows no counts: a draw doesn't lower it, so the best arm is emptied before the next is touched."""

    __slots__ = ()

    @abstractmethod
    def indices(self, arms: ArmStatistics) -> Real: ...

    def draws(self, arms: ArmStatistics, capacity_K: IntArray, size: int) -> Draws:
        """Fill the arms by rank."""
        ranked = np.argsort(-self.indices(arms), kind="stable")
        ranked = ranked[capacity_K[ranked] > 0]
        capacity = capacity_K[ranked]
        counts = np.clip(size - (np.cumsum(capacity) - capacity), 0, capacity)
        return Draws(ranked[counts > 0], counts[counts > 0])


@dataclass(frozen=True, slots=True)
class UcbBeta(Ranked):
    """mean + beta * standard deviation of the arm's rewards (ClusterUCB). The deviation doesn't shrink with draws."""

    beta: float
    official: bool = False

    def indices(self, arms: ArmStatistics) -> Real:
        """Return an upper quantile of each arm's rewards."""
        std_K = arms.population_std_K if self.official else arms.shrunk_std_K
        return live(arms, arms.mean_K + self.beta * std_K)


@dataclass(frozen=True, slots=True)
class ThreshHard(Ranked):
    """Share of the arm's rewards at or above the running threshold; arms with none follow, by their largest reward."""

    def indices(self, arms: ArmStatistics) -> Real:
        """Return shares in (0, 1], or a value in (-1, 0) that grows with the largest reward."""
        assert arms.top is not None, "thresh_hard needs the running threshold"
        share_K = arms.top.hits_K(len(arms)) / np.maximum(arms.count_K, 1)
        largest_K = np.where(arms.count_K > 0, arms.largest_K, 0.0)
        behind_K = 0.5 * largest_K / (1.0 + np.abs(largest_K)) - 0.5
        return live(arms, np.where(share_K > 0, share_K, behind_K))


@dataclass(frozen=True, slots=True)
class ThreshNormal(Ranked):
    """Probability, under a normal fit of the arm, of a reward above the running threshold."""

    official: bool = False

    def indices(self, arms: ArmStatistics) -> Real:
        """Return probabilities; an arm without spread has 0, 1/2 or 1."""
        assert arms.top is not None, "thresh_normal needs the running threshold"
        std_K = arms.population_std_K if self.official else arms.shrunk_std_K
        excess_K = np.where(arms.count_K > 0, arms.mean_K, 0.0) - arms.top.value
        spread_K = np.where(std_K > 0, std_K, 1.0)
        flat_K = np.sign(excess_K) / 2 + 0.5
        return live(arms, np.where(std_K > 0, ndtr(excess_K / spread_K), flat_K))


@dataclass(frozen=True, slots=True)
class Ucb1:
    """mean + scale * sqrt(2 ln(all draws) / draws of the arm). Draws in flight count (WU-UCT), their rewards don't.

    Inside a round the arm's own count grows with every draw and the logarithm stays, so that the round's draws are the
    largest terms of K decreasing sequences: found by bisecting the level that they reach, not draw by draw.
    """

    scale: float

    def _bonus(self, arms: ArmStatistics) -> float:
        known = int((arms.count_K + arms.in_flight_K).sum())
        return self.scale * float(np.sqrt(2.0 * np.log(max(known, 1))))

    def indices(self, arms: ArmStatistics) -> Real:
        """Return means plus a confidence width."""
        known_K = np.maximum(arms.count_K + arms.in_flight_K, 1)
        return live(arms, arms.mean_K + self._bonus(arms) / np.sqrt(known_K))

    def draws(self, arms: ArmStatistics, capacity_K: IntArray, size: int) -> Draws:
        """Draw where the index is largest, lowering it with every draw."""
        known_K = np.maximum(arms.count_K + arms.in_flight_K, 1)
        bonus = self._bonus(arms)
        unseen = arms.count_K == 0

        def above(level: float) -> IntArray:
            """Count, up to its capacity, each arm's terms that surely exceed the level."""
            gap_K = level - arms.mean_K
            width_K = np.divide(bonus, gap_K, out=np.full(len(arms), np.inf), where=gap_K > bonus / 2.0**26)
            terms_K = np.ceil(width_K**2) - known_K - 1
            return np.where(unseen, capacity_K, np.clip(terms_K, 0, capacity_K)).astype(np.int64)

        low, high = float(arms.mean_K.min()), float(arms.mean_K.max()) + bonus + 1e-9
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if above(middle).sum() > size else (low, middle)
        counts_K = above(high)
        if counts_K.sum() > size:  # unobserved arms alone fill the round, lowest arms first
            counts_K = np.clip(size - (np.cumsum(counts_K) - counts_K), 0, counts_K)
        self._finish(arms.mean_K, bonus, known_K, capacity_K, counts_K, size)
        order = np.argsort(-self.indices(arms), kind="stable")
        order = order[counts_K[order] > 0]
        return Draws(order, counts_K[order])

    @staticmethod
    def _finish(
        mean_K: Real, bonus: float, known_K: IntArray, capacity_K: IntArray, counts_K: IntArray, size: int
    ) -> None:
        """Give the last few draws one at a time, in `counts_K`."""

        def term(arm: int) -> float:
            return -float(mean_K[arm] + bonus / np.sqrt(known_K[arm] + counts_K[arm]))

        left = size - int(counts_K.sum())
        heap = [(term(arm), arm) for arm in np.flatnonzero(counts_K < capacity_K).tolist()]
        heapq.heapify(heap)
        while left and heap:
            _, arm = heapq.heappop(heap)
            counts_K[arm] += 1
            left -= 1
            if counts_K[arm] < capacity_K[arm]:
                heapq.heappush(heap, (term(arm), arm))


def build_allocator(search: config.Search) -> Allocator | None:
    """Return the configured strategy; none for uniform and exhaustive, which draw from the whole pool."""
    official = search.compat == "official"
    match search.allocator:
        case config.UcbBeta(beta=beta):
            return UcbBeta(beta, official)
        case config.Ucb1(scale=scale):
            return Ucb1(scale)
        case config.ThreshHard():
            return ThreshHard()
        case config.ThreshNormal():
            return ThreshNormal(official)
        case config.Uniform() | config.Exhaustive():
            return None


def top_share(search: config.Search, selection_share: float) -> float | None:
    """Return the share of drawn samples above the running threshold; none where no threshold is kept."""
    match search.allocator:
        case config.ThreshHard(top=top) | config.ThreshNormal(top=top):
            return min(selection_share / search.budget, 1.0) if top is None else top
        case _:
            return None


def limit_of(search: config.Search, num_usable: int) -> int:
    """Return how many observations the budget buys."""
    return num_usable if isinstance(search.allocator, config.Exhaustive) else buys(search.budget, num_usable)
