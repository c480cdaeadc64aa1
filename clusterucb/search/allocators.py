"""Which arms the next draws come from. A strategy ranks arms; a round empties the best, then the next.

Every index is minus infinity for an exhausted arm, which is never drawn, and plus infinity for a live arm without an
observation (every draw of its cold start failed), which gets another cold start. Ties go to the lowest arm.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import ndtr  # pyright: ignore[reportMissingTypeStubs]

from clusterucb import config
from clusterucb.search.arms import ArmStatistics, Real
from clusterucb.search.ledger import buys
from clusterucb.search.levels import fill_to_level
from clusterucb.search.shrinkage import components
from clusterucb.types import IntArray

CAUTION = 0.5
"""Posterior deviations below its posterior mean at which `UcbBeta` expects an arm's next rewards."""


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
    """mean + beta * standard deviation of the arm's rewards (ClusterUCB). The deviation doesn't shrink with draws.

    Drawn one at a time, an arm that leads by luck falls back as soon as its next rewards are in. Inside a round they
    aren't, so each further draw counts as if it brought the arm's cautious mean (the posterior mean less CAUTION
    posterior deviations) where that is below the observed one. `official` fills by rank instead.
    """

    beta: float
    official: bool = False

    def indices(self, arms: ArmStatistics) -> Real:
        """Return an upper quantile of each arm's rewards."""
        return live(arms, arms.mean_K + self._margin_K(arms))

    def _margin_K(self, arms: ArmStatistics) -> Real:
        return self.beta * (arms.population_std_K if self.official else arms.shrunk_std_K)

    def draws(self, arms: ArmStatistics, capacity_K: IntArray, size: int) -> Draws:
        """Draw where the index is largest, letting lucky arms fall back."""
        alone = size == 1 and not arms.in_flight_K.any()
        if self.official or alone or not arms.count_K.any():
            return Ranked.draws(self, arms, capacity_K, size)
        posterior = components(arms)
        n_K, ahead_K = arms.count_K, arms.in_flight_K
        index_K = arms.mean_K + self._margin_K(arms)
        fall_K = np.maximum(arms.mean_K - (posterior.mean_K - CAUTION * posterior.std_K), 0.0)

        def above(level: float) -> Real:
            excess_K = index_K - level
            bounded = (excess_K > 0) & (excess_K < fall_K)
            terms_K = np.divide(n_K * excess_K, fall_K - excess_K, out=np.zeros(len(arms)), where=bounded) - ahead_K
            return np.where(bounded, np.ceil(terms_K), np.where(excess_K > 0, np.inf, 0.0))

        def term(arm: int, draws: int) -> float:
            further = int(ahead_K[arm]) + draws
            return float(index_K[arm] - fall_K[arm] * (further / (int(n_K[arm]) + further) if further else 0.0))

        return _level(arms, self.indices(arms), above, term, float((index_K - fall_K).min()), capacity_K, size)


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
        known_K = arms.count_K + arms.in_flight_K
        bonus = self._bonus(arms)

        def above(level: float) -> Real:
            gap_K = level - arms.mean_K
            width_K = np.divide(bonus, gap_K, out=np.full(len(arms), np.inf), where=gap_K > bonus / 2.0**26)
            return np.ceil(width_K**2) - known_K.astype(np.float64)

        def term(arm: int, draws: int) -> float:
            return float(arms.mean_K[arm] + bonus / np.sqrt(known_K[arm] + draws))

        return _level(arms, self.indices(arms), above, term, float(arms.mean_K.min()), capacity_K, size)


def _level(
    arms: ArmStatistics,
    indices_K: Real,
    above: Callable[[float], Real],
    term: Callable[[int, int], float],
    low: float,
    capacity_K: IntArray,
    size: int,
) -> Draws:
    """Fill unobserved arms by rank, then the others to a level; best arm first."""
    unseen_K = np.where(arms.count_K == 0, capacity_K, 0)
    first_K = np.clip(size - (np.cumsum(unseen_K) - unseen_K), 0, unseen_K)
    seen_K = np.where(arms.count_K == 0, 0, capacity_K)
    high = float(indices_K[np.isfinite(indices_K)].max(initial=low)) + 1e-9
    counts_K = first_K + fill_to_level(above, term, low, high, seen_K, size - int(first_K.sum()))
    order = np.argsort(-indices_K, kind="stable")
    order = order[counts_K[order] > 0]
    return Draws(order, counts_K[order])


def build_allocator(search: config.Search) -> Allocator | None:
    """Return the configured strategy; none for uniform and exhaustive, which draw from the whole pool."""
    official = search.compat == "official"
    match search.allocator:
        case config.UcbBeta(beta=beta):
            return UcbBeta(beta, official)
        case config.Predictive(beta=beta):
            return UcbBeta(beta, official)  # of the fall-back
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
