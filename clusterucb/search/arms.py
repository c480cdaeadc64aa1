"""What is known of each arm: sufficient statistics, merged round by round and never recomputed from lists.

Counts, means and sums of squared deviations are merged pairwise (Chan, Golub and LeVeque 1983), which is Welford's
update when a round has one draw. Failed draws leave `remaining_K` but enter no statistic.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clusterucb.search.threshold import TopShare
from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]

PRIOR_DRAWS = 4.0
"""Draws that the pooled variance is worth in `shrunk_std_K`."""


@dataclass(frozen=True, slots=True, eq=False)
class ArmStatistics:
    """Statistics of K arms over observed rewards; `drawn_K` also counts draws in flight and failed ones."""

    size_K: IntArray
    drawn_K: IntArray
    failed_K: IntArray
    count_K: IntArray
    mean_K: Real
    squares_K: Real
    """Sum of squared deviations from the arm's mean."""
    largest_K: Real
    top: TopShare | None

    @classmethod
    def of(cls, size_K: IntArray, top_share: float | None = None) -> "ArmStatistics":
        """Start with nothing drawn; `top_share` keeps the running threshold too."""
        zeros, reals = np.zeros_like(size_K), np.zeros(len(size_K))
        top = None if top_share is None else TopShare.empty(top_share)
        return cls(size_K, zeros, zeros, zeros, reals, reals, np.full(len(size_K), -np.inf), top)

    def __len__(self) -> int:
        return len(self.size_K)

    @property
    def remaining_K(self) -> IntArray:
        """Samples never drawn."""
        return self.size_K - self.drawn_K

    @property
    def in_flight_K(self) -> IntArray:
        """Draws without a result so far."""
        return self.drawn_K - self.count_K - self.failed_K

    def capacity_K(self, start_K: IntArray) -> IntArray:
        """Return how many draws an arm can take: what remains, or another cold start where nothing was observed."""
        again_K = np.clip(start_K - self.in_flight_K, 0, self.remaining_K)
        return np.where(self.count_K > 0, self.remaining_K, again_K)

    @property
    def std_K(self) -> Real:
        """Sample standard deviation (ddof 1); 0 below two observations."""
        return np.sqrt(self.squares_K / np.maximum(self.count_K - 1, 1))

    @property
    def population_std_K(self) -> Real:
        """Population standard deviation (ddof 0), as in the official code."""
        return np.sqrt(self.squares_K / np.maximum(self.count_K, 1))

    @property
    def pooled_variance(self) -> float:
        """Variance within arms, over all of them."""
        return float(self.squares_K.sum() / max(int(np.maximum(self.count_K - 1, 0).sum()), 1))

    @property
    def shrunk_std_K(self) -> Real:
        """Sample deviation with the variance drawn to the pooled within-arm variance, which counts as a few draws."""
        freedom_K = np.maximum(self.count_K - 1, 0)
        return np.sqrt((self.squares_K + PRIOR_DRAWS * self.pooled_variance) / (freedom_K + PRIOR_DRAWS))

    def plan(self, draws_K: IntArray) -> "ArmStatistics":
        """Return the statistics with `draws_K` more draws in flight."""
        assert (draws_K <= self.remaining_K).all(), "an arm was asked for more than it has"
        return replace(self, drawn_K=self.drawn_K + draws_K)

    def observe(self, arms_B: Labels, rewards_B: Real, failed_arms: Labels) -> "ArmStatistics":
        """Return the statistics with B more finite rewards, `rewards_B[i]` from `arms_B[i]`, and some failed draws."""
        new_K = np.bincount(arms_B, minlength=len(self))
        sums_K = np.bincount(arms_B, weights=rewards_B, minlength=len(self))
        new_mean_K = np.divide(sums_K, new_K, out=np.zeros(len(self)), where=new_K > 0)
        new_squares_K = np.bincount(arms_B, weights=(rewards_B - new_mean_K[arms_B]) ** 2, minlength=len(self))
        count_K = self.count_K + new_K
        share_K = new_K / np.maximum(count_K, 1)
        delta_K = new_mean_K - self.mean_K
        largest_K = self.largest_K.copy()
        np.maximum.at(largest_K, arms_B, rewards_B)
        return replace(
            self,
            failed_K=self.failed_K + np.bincount(failed_arms, minlength=len(self)),
            count_K=count_K,
            mean_K=self.mean_K + delta_K * share_K,
            squares_K=self.squares_K + new_squares_K + delta_K**2 * self.count_K * share_K,
            largest_K=largest_K,
            top=None if self.top is None else self.top.merge(arms_B, rewards_B),
        )
