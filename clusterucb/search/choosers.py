"""Who names the samples of a round: the pool's order, the arms' orders, or a prediction of every sample.

Invariant: a sample is named once; what is named depends on configuration, seed and the rewards told before, in the
order in which they are told. Where several targets share the draws, each decides its part of a round by its weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clusterucb import config
from clusterucb.search.allocators import Allocator, build_allocator
from clusterucb.search.arms import ArmStatistics, Labels, Real
from clusterucb.search.order import ArmOrder, PoolOrder
from clusterucb.search.predictive.chooser import PredictiveChooser
from clusterucb.search.predictive.known import Knowledge
from clusterucb.search.prior import Prior
from clusterucb.search.rounds import round_size
from clusterucb.search.shared_draws import shared_draws, shares
from clusterucb.types import IntArray


class Chooser(Protocol):
    """Names samples; `left` draws can be paid for, `planned` were named so far. `arms` are those of each target."""

    def first(self, left: int) -> IntArray:
        """Return round 0."""
        ...

    def further(self, arms: Sequence[ArmStatistics], planned: int, left: int) -> IntArray:
        """Return the next round; none where nothing is left to draw."""
        ...

    def observe(self, samples_B: IntArray, rewards_BM: Real) -> None:
        """Take the finite rewards of the oldest round not taken so far; samples ascend."""
        ...

    def undrawn(self, arms: ArmStatistics) -> IntArray:
        """Return the drawable samples not named yet, in any order."""
        ...

    def predictions(self) -> Real | None:
        """Return the expected reward of every sample, N or N x M; none where nothing is predicted."""
        ...


class PoolChooser:
    """The whole pool in one random order: nothing to learn, so one round, replacements apart."""

    def __init__(self, labels_N: Labels, rng: np.random.Generator) -> None:
        self._order = PoolOrder.of(labels_N, rng)

    def first(self, left: int) -> IntArray:
        return self._order.take(left, 0)

    def further(self, arms: Sequence[ArmStatistics], planned: int, left: int) -> IntArray:
        return self._order.take(left, int(arms[0].drawn_K.sum()))

    def observe(self, samples_B: IntArray, rewards_BM: Real) -> None:
        pass

    def undrawn(self, arms: ArmStatistics) -> IntArray:
        return self._order.rest(int(arms.drawn_K.sum()))

    def predictions(self) -> Real | None:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class ArmChooser:
    """Every arm in an order of its own; the allocator says how many draws each arm gets."""

    order: ArmOrder
    allocator: Allocator
    cold_K: IntArray
    rounds: config.Rounds
    weights: tuple[float, ...] = (1.0,)
    priors: tuple[Prior, ...] = ()
    """What the last period knew of the arms, one a target; none where the search begins anew."""

    def first(self, left: int) -> IntArray:
        drawn = np.flatnonzero(self.cold_K)
        return self.order.take(drawn, self.cold_K[drawn], np.zeros_like(self.cold_K))

    def further(self, arms: Sequence[ArmStatistics], planned: int, left: int) -> IntArray:
        size = round_size(planned, left, self.rounds)
        seen = [prior.joined(each) for prior, each in zip(self.priors, arms, strict=True)] if self.priors else arms
        draws = shared_draws(self.allocator, seen, self.cold_K, shares(size, self.weights))
        return self.order.take(draws.arms, draws.counts, arms[0].drawn_K)

    def observe(self, samples_B: IntArray, rewards_BM: Real) -> None:
        pass

    def undrawn(self, arms: ArmStatistics) -> IntArray:
        return self.order.rest(arms.drawn_K)

    def predictions(self) -> Real | None:
        return None


def build_chooser(
    labels_N: npt.NDArray[np.int32],
    cold_K: IntArray,
    search: config.Search,
    top_k: int,
    known: Knowledge,
    rng: np.random.Generator,
    weights: tuple[float, ...] = (1.0,),
    earlier_NM: Real | None = None,
) -> Chooser:
    """Return who draws for the configured allocator; `top_k` is how many samples are going to be selected."""
    allocator = build_allocator(search)
    if allocator is None:
        return PoolChooser(labels_N, rng)
    order = ArmOrder.of(labels_N, len(cold_K), rng)
    if isinstance(search.allocator, config.Predictive):
        return PredictiveChooser.of(labels_N, order, cold_K, allocator, search, top_k, known, rng, weights)
    priors: tuple[Prior, ...] = ()
    if search.warm_start is not None and earlier_NM is not None:
        priors = tuple(Prior.of(labels_N, earlier_N, search.warm_start.discount) for earlier_N in earlier_NM.T)
    return ArmChooser(order, allocator, cold_K, search.rounds, weights, priors)
