"""Draws by prediction: fit what is known, then take the samples of largest expected gain over the top-k threshold.

Round 0 is spread over the clusters in proportion to their size. Every further round is predicted before it is seen;
while those predictions show no skill beyond the clusters' means, rounds are drawn as the fall-back draws them, and the
model goes on predicting, so that it can take over again. With several targets each has a model and such a test of its
own. A draw counts by its gain for all of them, each in units of its rewards' deviation and times its weight; a target
whose model shows no skill has its part of the round drawn by the fall-back instead. Invariant: a chooser fed the same
rounds in the same order names the same samples, to the byte.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clusterucb import config
from clusterucb.search.allocators import Allocator
from clusterucb.search.arms import ArmStatistics, Labels, Real
from clusterucb.search.order import ArmOrder
from clusterucb.search.predictive.gain import best, log_expected_gain, log_total, top_threshold
from clusterucb.search.predictive.known import Knowledge
from clusterucb.search.predictive.posterior import Moments, Posterior, fit
from clusterucb.search.predictive.skill import Skill
from clusterucb.search.predictive.working_set import WorkingSet
from clusterucb.search.rounds import cluster_start_K, round_size
from clusterucb.search.shared_draws import shared_draws, shares
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
        weights: tuple[float, ...],
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
        self._weights = weights
        self._moments: tuple[Moments, ...] = (Moments.empty(len(working.groups_C), len(cold_K)),) * len(weights)
        self._rewards: list[Real] = []
        self._forecasts: list[tuple[IntArray, Real, Real] | None] = []
        self.skills: tuple[Skill, ...] = (Skill(),) * len(weights)

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
        weights: tuple[float, ...] = (1.0,),
    ) -> "PredictiveChooser":
        """Reduce what is known of the samples, and start with nothing drawn."""
        assert isinstance(search.allocator, config.Predictive)
        working = WorkingSet.of(known, labels_N, search.allocator.components, rng)
        return cls(labels_N, order, cold_K, fall_back, search, top_k, working, weights)

    def first(self, left: int) -> IntArray:
        """Return the cold start."""
        drawn = np.flatnonzero(self._cold_K)
        samples = self._order.take(drawn, self._cold_K[drawn], np.zeros_like(self._cold_K))
        return self._named(samples, None)

    def further(self, arms: Sequence[ArmStatistics], planned: int, left: int) -> IntArray:
        """Return the next round: by expected gain, or as the fall-back draws."""
        size = round_size(planned, left, self._rounds)
        if not arms[0].count_K.any():  # every draw failed so far
            return self._named(self._next_of_arms(arms, shares(size, self._weights)), None)
        models = [fit(moments, self._working.groups_C) for moments in self._moments]
        lost = [skill.lost for skill in self.skills]
        samples = self._next(arms, models, lost, size)
        labels_B, rows_BC = self._labels_N[samples], self._working.rows(samples)
        predicted_BM = np.stack([model.predict(rows_BC, labels_B)[0] for model in models], axis=1)
        return self._named(samples, (predicted_BM, np.stack([components(a).mean_K[labels_B] for a in arms], axis=1)))

    def observe(self, samples_B: IntArray, rewards_BM: Real) -> None:
        """Judge what was predicted, then learn from it."""
        forecast = self._forecasts.pop(0)
        if not len(samples_B):
            return
        columns = [np.ascontiguousarray(rewards_B) for rewards_B in rewards_BM.T]
        if forecast is not None:
            named, model_BM, clusters_BM = forecast
            at = np.searchsorted(named, samples_B)
            self.skills = tuple(
                skill.seen(model_BM[at, m], clusters_BM[at, m], columns[m]) for m, skill in enumerate(self.skills)
            )
        rows_BC, labels_B = self._working.rows(samples_B), self._labels_N[samples_B]
        first = self._moments[0].add(rows_BC, labels_B, columns[0])
        others = (
            moments.sharing(first, rows_BC, labels_B, rewards_B)
            for moments, rewards_B in zip(self._moments[1:], columns[1:], strict=True)
        )
        self._moments = (first, *others)
        self._rewards.append(rewards_BM)

    def undrawn(self, arms: ArmStatistics) -> IntArray:
        """Return what no round has named, ascending."""
        return np.flatnonzero(self._open_N)

    def predictions(self) -> Real:
        """Return the mean predicted reward of every sample, NaN of those that cannot be drawn."""
        models = [fit(moments, self._working.groups_C) for moments in self._moments]
        predicted_NM = np.full((len(self._labels_N), len(models)), np.nan)
        for start in range(0, len(predicted_NM), BLOCK):
            block = slice(start, start + BLOCK)
            labels_B, rows_BC = self._labels_N[block], self._working.rows(block)
            for m, model in enumerate(models):
                mean_B, _ = model.predict(rows_BC, np.maximum(labels_B, 0))
                predicted_NM[block, m] = np.where(labels_B >= 0, mean_B, np.nan)
        return predicted_NM[:, 0] if len(models) == 1 else predicted_NM

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

    def _next(self, arms: Sequence[ArmStatistics], models: list[Posterior], lost: list[bool], size: int) -> IntArray:
        """Return the next samples: what the fall-back draws for targets without skill, then by gain for the others."""
        if not any(lost):
            return best(self._gains_N(models), size)
        sizes = shares(size, self._weights)
        fallen = tuple(count if gone else 0 for count, gone in zip(sizes, lost, strict=True))
        samples = self._next_of_arms(arms, fallen)
        if all(lost):
            return samples
        gains_N = self._gains_N([model for model, gone in zip(models, lost, strict=True) if not gone], lost)
        gains_N[samples] = -np.inf
        return np.concatenate((samples, best(gains_N, size - len(samples))))

    def _next_of_arms(self, arms: Sequence[ArmStatistics], sizes: Sequence[int]) -> IntArray:
        """Return what the fall-back draws: of each arm the next open samples in the arm's order."""
        draws = shared_draws(self._fall_back, arms, self._again_K, sizes)
        rest = self._order.order[self._open_N[self._order.order]]
        starts_K = np.concatenate(([0], np.cumsum(arms[0].remaining_K)))
        left = ArmOrder(rest, starts_K)
        return left.take(draws.arms, draws.counts, np.zeros_like(arms[0].drawn_K))

    def _gains_N(self, models: Sequence[Posterior], lost: Sequence[bool] | None = None) -> Real:
        """Return the log gain of every open sample for the targets of these models, which are those not `lost`."""
        targets = [m for m in range(len(self._weights)) if lost is None or not lost[m]]
        rewards_BM = np.concatenate(self._rewards)
        thresholds = [top_threshold(rewards_BM[:, m], self._top_k) for m in targets]
        scales = [self._weights[m] / self._moments[m].deviation for m in targets]
        gains_N = np.full(len(self._labels_N), -np.inf)
        for start in range(0, len(gains_N), BLOCK):
            block = slice(start, start + BLOCK)
            open_B = self._open_N[block]
            if open_B.any():
                labels_B, rows_BC = np.maximum(self._labels_N[block], 0), self._working.rows(block)
                predicted = [model.predict(rows_BC, labels_B) for model in models]
                logs = [log_expected_gain(*each, tau) for each, tau in zip(predicted, thresholds, strict=True)]
                gains_N[block] = np.where(open_B, log_total(logs, scales), -np.inf)
        return gains_N
