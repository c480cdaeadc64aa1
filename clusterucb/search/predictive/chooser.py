"""Draws by prediction: fit what is known, then take the samples of largest expected gain over the top-k threshold.

Round 0 is spread over the clusters in proportion to their size. Every further round is predicted before it is seen;
while those predictions show no skill beyond the clusters' means, rounds are drawn as the fall-back draws them, and the
model goes on predicting, so that it can take over again. Invariant: a chooser fed the same rounds in the same order
names the same samples, to the byte.
"""

import numpy as np
import numpy.typing as npt

from clusterucb import config
from clusterucb.search.allocators import Allocator
from clusterucb.search.arms import ArmStatistics, Labels, Real
from clusterucb.search.order import ArmOrder
from clusterucb.search.predictive.gain import best, log_expected_gain, top_threshold
from clusterucb.search.predictive.known import Knowledge
from clusterucb.search.predictive.posterior import Moments, Posterior, fit
from clusterucb.search.predictive.skill import Skill
from clusterucb.search.predictive.working_set import WorkingSet
from clusterucb.search.rounds import cluster_start_K, round_size
from clusterucb.search.shrinkage import components
from clusterucb.types import IntArray

BLOCK = 8192
"""Rows that are predicted at a time: they stay in the cache."""


class PredictiveChooser:
    """Names the samples of each round; feed it the rounds in planned order."""

    def __init__(
        self,
        labels_N: Labels,
        order: ArmOrder,
        cold_K: IntArray,
        fall_back: Allocator,
        search: config.Search,
        top_k: int,
        working: WorkingSet,
    ) -> None:
        self._labels_N = labels_N
        self._order = order
        self._cold_K = cold_K
        self._again_K = cluster_start_K(np.diff(order.starts_K), search)
        self._fall_back = fall_back
        self._rounds = search.rounds
        self._top_k = top_k
        self._working = working
        self._open_N: npt.NDArray[np.bool_] = labels_N >= 0
        self._moments = Moments.empty(len(working.groups_C), len(cold_K))
        self._rewards: list[Real] = []
        self._forecasts: list[tuple[IntArray, Real, Real] | None] = []
        self.skill = Skill()

    @classmethod
    def of(
        cls,
        labels_N: Labels,
        order: ArmOrder,
        cold_K: IntArray,
        fall_back: Allocator,
        search: config.Search,
        top_k: int,
        known: Knowledge,
        rng: np.random.Generator,
    ) -> "PredictiveChooser":
        """Reduce what is known of the samples, and start with nothing drawn."""
        assert isinstance(search.allocator, config.Predictive)
        working = WorkingSet.of(known, labels_N, search.allocator.components, rng)
        return cls(labels_N, order, cold_K, fall_back, search, top_k, working)

    def first(self, left: int) -> IntArray:
        """Return the cold start."""
        drawn = np.flatnonzero(self._cold_K)
        samples = self._order.take(drawn, self._cold_K[drawn], np.zeros_like(self._cold_K))
        return self._named(samples, None)

    def further(self, arms: ArmStatistics, planned: int, left: int) -> IntArray:
        """Return the next round: by expected gain, or as the fall-back draws."""
        size = round_size(planned, left, self._rounds)
        if not arms.count_K.any():  # every draw failed so far
            return self._named(self._next_of_arms(arms, size), None)
        model = fit(self._moments, self._working.groups_C)
        samples = self._next_of_arms(arms, size) if self.skill.lost else best(self._gains_N(model), size)
        labels_B = self._labels_N[samples]
        predicted_B, _ = model.predict(self._working.rows(samples), labels_B)
        return self._named(samples, (predicted_B, components(arms).mean_K[labels_B]))

    def observe(self, samples_B: IntArray, rewards_B: Real) -> None:
        """Judge what was predicted, then learn from it."""
        forecast = self._forecasts.pop(0)
        if not len(samples_B):
            return
        if forecast is not None:
            named, model_B, clusters_B = forecast
            at = np.searchsorted(named, samples_B)
            self.skill = self.skill.seen(model_B[at], clusters_B[at], rewards_B)
        self._moments = self._moments.add(self._working.rows(samples_B), self._labels_N[samples_B], rewards_B)
        self._rewards.append(rewards_B)

    def undrawn(self, arms: ArmStatistics) -> IntArray:
        """Return what no round has named, ascending."""
        return np.flatnonzero(self._open_N)

    def predictions(self) -> Real:
        """Return the mean predicted reward of every sample, NaN of those that cannot be drawn."""
        model, predicted_N = fit(self._moments, self._working.groups_C), np.full(len(self._labels_N), np.nan)
        for start in range(0, len(predicted_N), BLOCK):
            block = slice(start, start + BLOCK)
            labels_B = self._labels_N[block]
            mean_B, _ = model.predict(self._working.rows(block), np.maximum(labels_B, 0))
            predicted_N[block] = np.where(labels_B >= 0, mean_B, np.nan)
        return predicted_N

    def _named(self, samples: IntArray, forecasts: tuple[Real, Real] | None) -> IntArray:
        if not len(samples):
            return samples
        self._open_N[samples] = False
        if forecasts is None:
            self._forecasts.append(None)
        else:
            order = np.argsort(samples)
            self._forecasts.append((samples[order], forecasts[0][order], forecasts[1][order]))
        return samples

    def _next_of_arms(self, arms: ArmStatistics, size: int) -> IntArray:
        """Return what the fall-back draws: of each arm the next open samples in the arm's order."""
        draws = self._fall_back.draws(arms, arms.capacity_K(self._again_K), size)
        rest = self._order.order[self._open_N[self._order.order]]
        starts_K = np.concatenate(([0], np.cumsum(arms.remaining_K)))
        left = ArmOrder(rest, starts_K)
        return left.take(draws.arms, draws.counts, np.zeros_like(arms.drawn_K))

    def _gains_N(self, model: Posterior) -> Real:
        threshold = top_threshold(np.concatenate(self._rewards), self._top_k)
        gains_N = np.full(len(self._labels_N), -np.inf)
        for start in range(0, len(gains_N), BLOCK):
            block = slice(start, start + BLOCK)
            open_B = self._open_N[block]
            if open_B.any():
                labels_B = np.maximum(self._labels_N[block], 0)
                mean_B, deviation_B = model.predict(self._working.rows(block), labels_B)
                gains_N[block] = np.where(open_B, log_expected_gain(mean_B, deviation_B, threshold), -np.inf)
        return gains_N
