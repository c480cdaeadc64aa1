"""Ask for the next round, tell its rewards, give back what a lost worker held.

Invariants, whatever the order of calls:
- a sample is drawn at most once, and an exhausted arm never;
- a round is a pure function of the configuration, the seed and the rewards of rounds up to t - 1 - lag (and always of
  round 0, the cold start), even where later results are known already: what was told too early waits to be seen;
- draws in flight are reserved in the ledger; failed ones are refunded when the round that sees them is planned;
- results are told in planned order, so replaying them into a fresh search gives the identical state.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from clusterucb import config
from clusterucb.errors import ConfigError, DataError
from clusterucb.search.allocators import limit_of, top_share
from clusterucb.search.arms import ArmStatistics, Labels, Real
from clusterucb.search.choosers import build_chooser
from clusterucb.search.ledger import Ledger
from clusterucb.search.predictive.known import Knowledge
from clusterucb.search.rounds import cold_start_K
from clusterucb.types import IntArray, Observations, Round


class Search:
    """The search over one pool for one target, or for several that share its draws.

    `labels_N` holds each sample's arm, -1 for those that can't be drawn; `selection_share` sets the default threshold
    of the thresh_* allocators; `rng` is used once, to fix the order of draws (and to reduce features); `known` is what
    `predictive` predicts from, besides clusters; `weights` has one number a target, its part of the draws;
    `earlier_NM` the rewards of an earlier period (NaN: none), a column a target, from which `warm_start` begins.
    Raises ConfigError when the budget doesn't cover the cold start, DataError when nothing can be drawn.
    """

    def __init__(
        self,
        labels_N: Labels,
        config: config.Search,
        selection_share: float,
        rng: np.random.Generator,
        known: Knowledge | None = None,
        weights: Sequence[float] = (1.0,),
        earlier_NM: Real | None = None,
    ) -> None:
        usable = int((labels_N >= 0).sum())
        if usable == 0:
            raise DataError(f"none of the {len(labels_N)} pool samples can be drawn: see the failures reported before")
        num_arms = int(labels_N.max()) + 1
        self.config = config
        self.ledger = Ledger(limit_of(config, usable))
        self._labels_N = labels_N
        size_K = np.bincount(labels_N[labels_N >= 0], minlength=num_arms)
        self._cold_K = cold_start_K(size_K, config)
        top_k = max(1, int(selection_share * usable + 1e-9))
        self._check_budget(usable)
        self._chooser = build_chooser(
            labels_N, self._cold_K, config, top_k, known or Knowledge(), rng, tuple(weights), earlier_NM
        )
        self._arms: tuple[ArmStatistics, ...] = tuple(
            ArmStatistics.of(size_K, top_share(config, selection_share)) for _ in weights
        )
        self._refunded = 0  # failures the planner has seen
        self._next = 0  # index of the next new round
        self._out: dict[int, Round] = {}  # planned, neither told nor given back
        self._returned: dict[int, Round] = {}
        self._unseen: list[tuple[IntArray, Real, Labels]] = []  # told, not yet seen by the planner
        self._told = 0

    def _check_budget(self, usable: int) -> None:
        cold, limit = int(self._cold_K.sum()), self.ledger.limit
        if limit == 0:
            raise ConfigError(f"search.budget ({self.config.budget:g}) buys none of {usable} samples: raise it")
        if self.config.allocator.kind not in ("uniform", "exhaustive") and cold > limit:
            raise ConfigError(
                f"search.budget ({self.config.budget:g}) buys {limit} of {usable} samples, but the cold start of "
                f"{int((self._cold_K > 0).sum())} clusters draws {cold}: "
                f"lower clusters.k or raise search.budget to {np.ceil(1e4 * cold / usable) / 1e4:g}"
            )

    @property
    def start(self) -> int:
        """Draws of the cold start."""
        return int(self._cold_K.sum())

    @property
    def done(self) -> bool:
        """Whether every planned round is told and no further one can be planned."""
        if self._next == 0 or self._out or self._returned:
            return False
        return self.ledger.remaining == 0 or not (self._arms[0].remaining_K > 0).any()

    @property
    def arms(self) -> ArmStatistics:
        """What the planner knows of the arms, of several targets the first's rewards; everything told, once the search
        is done."""
        return self._arms[0]

    @property
    def rounds_told(self) -> int:
        """Rounds whose results are known."""
        return self._told

    def predictions(self) -> Real | None:
        """Return the reward expected of every sample, N or N x M; NaN where it can't be drawn; none if unpredicted."""
        return self._chooser.predictions() if self.arms.count_K.any() else None

    def undrawn(self) -> IntArray:
        """Return the drawable samples that no round has drawn, ascending."""
        return np.sort(self._chooser.undrawn(self.arms))

    def ask(self) -> Round | None:
        """Return a given-back round or plan the next one; none until more is told, or when the search is done."""
        if self._returned:
            index = min(self._returned)
            self._out[index] = self._returned.pop(index)
            return self._out[index]
        if self._next and self._told <= max(0, self._next - 1 - self.config.rounds.lag):
            return None
        planned = self._plan()
        if planned is None:
            return None
        self.ledger = self.ledger.plan(len(planned.samples_B))
        draws_K = np.bincount(planned.arms_B, minlength=len(self.arms))
        self._arms = tuple(arms.plan(draws_K) for arms in self._arms)
        self._out[planned.index] = planned
        self._next += 1
        return planned

    def tell(self, index: int, observations: Observations) -> None:
        """Take the results of the oldest round that is out. A draw with a reward that isn't finite counts as failed."""
        assert index == self._told, f"told round {index}, expected round {self._told}: results come in planned order"
        assert index in self._out, f"round {index} is not out"
        rewards_BM = observations.rewards_B.reshape(len(observations.samples_B), len(self._arms)).astype(np.float64)
        finite = np.isfinite(rewards_BM).all(axis=1)
        failed = np.concatenate((np.array(observations.failed, dtype=np.int64), observations.samples_B[~finite]))
        samples, rewards_BM = observations.samples_B[finite], rewards_BM[finite]
        planned = np.sort(self._out[index].samples_B)
        assert np.array_equal(np.sort(np.concatenate((samples, failed))), planned), f"round {index} has other samples"
        order = np.argsort(samples)  # sums don't depend on the order of completion
        del self._out[index]
        self._unseen.append((samples[order], rewards_BM[order], self._labels_N[failed]))
        self.ledger = self.ledger.settle(len(samples), len(failed))
        self._told += 1
        self._see(self._visible)
        if self.done:
            self._see(self._told)

    def allow(self, draws: int) -> None:
        """Have the search pause, as if its budget were spent, at so many draws; a later call lets it go on."""
        assert draws >= self.ledger.observed, f"{draws} draws allowed, {self.ledger.observed} made"
        self.ledger = replace(self.ledger, limit=draws)

    def give_back(self, index: int) -> None:
        """Return a round that is out; the next ask hands out exactly the same draws."""
        assert index in self._out, f"round {index} is not out"
        self._returned[index] = self._out.pop(index)

    @property
    def _visible(self) -> int:
        """How many rounds the next planned one may see."""
        return max(1, self._next - self.config.rounds.lag)

    def _see(self, rounds: int) -> None:
        """Merge told rounds into the statistics, up to the first `rounds`."""
        while self._unseen and self._told - len(self._unseen) < rounds:
            samples_B, rewards_BM, failed_arms = self._unseen.pop(0)
            self._arms = tuple(
                arms.observe(self._labels_N[samples_B], np.ascontiguousarray(rewards_B), failed_arms)
                for arms, rewards_B in zip(self._arms, rewards_BM.T, strict=True)
            )
            self._chooser.observe(samples_B, rewards_BM)
            self._refunded += len(failed_arms)

    def _plan(self) -> Round | None:
        """Decide the next round from what it may see; where that leaves nothing to draw, from everything told."""
        self._see(self._visible)
        chosen = self._choose()
        if not len(chosen) and self._unseen and not self._out:
            self._see(self._told)
            chosen = self._choose()
        if not len(chosen):
            return None
        return Round(self._next, chosen, self._labels_N[chosen].astype(np.int64))

    def _choose(self) -> IntArray:
        """Return the next draws."""
        left = self.ledger.limit - self.ledger.planned + self._refunded
        if self._next == 0:
            return self._chooser.first(left)
        return self._chooser.further(self._arms, self.ledger.planned, left)
