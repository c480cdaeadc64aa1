"""What the last period knew of the arms, as draws that count for less: the start of a search that need not begin anew.

Rewards of another checkpoint stand on another scale, and some arms have moved. Both are read off the arms that this
search has drawn from: old means are mapped onto new ones by weighted least squares, and what is left of the arms'
differences bounds how many draws an old mean is worth. Where the map does not rise, the past says nothing and is left
out. All of it is a function of what was told, so that a replayed search decides the same.
"""

from dataclasses import dataclass, replace

import numpy as np

from clusterucb.search.arms import ArmStatistics, Labels, Real
from clusterucb.types import IntArray

_FEWEST_ARMS = 3
"""Arms with draws of both periods that a map needs."""


@dataclass(frozen=True, slots=True, eq=False)
class Prior:
    """Statistics of K arms over the rewards of an earlier period; a draw of then counts `discount` of one now."""

    count_K: IntArray
    mean_K: Real
    squares_K: Real
    discount: float

    @classmethod
    def of(cls, labels_N: Labels, earlier_N: Real, discount: float) -> "Prior":
        """Gather earlier rewards (NaN: none) by the arms of now."""
        known = (labels_N >= 0) & np.isfinite(earlier_N)
        arms, rewards = labels_N[known], earlier_N[known].astype(np.float64)
        num_arms = int(labels_N.max()) + 1
        count_K = np.bincount(arms, minlength=num_arms)
        sums_K = np.bincount(arms, weights=rewards, minlength=num_arms)
        mean_K = sums_K / np.maximum(count_K, 1)
        squares_K: Real = np.bincount(arms, weights=(rewards - mean_K[arms]) ** 2, minlength=num_arms).astype(
            np.float64
        )
        return cls(count_K, mean_K, squares_K, discount)

    def joined(self, arms: ArmStatistics) -> ArmStatistics:
        """Return the statistics of now with the earlier rewards among them, as so many more draws of larger arms."""
        both = (self.count_K > 0) & (arms.count_K > 0)
        if int(both.sum()) < _FEWEST_ARMS:
            return arms
        weight_B, old_B, new_B = arms.count_K[both].astype(np.float64), self.mean_K[both], arms.mean_K[both]
        old_mean, new_mean = np.average(old_B, weights=weight_B), np.average(new_B, weights=weight_B)
        spread = float(weight_B @ (old_B - old_mean) ** 2)
        slope = 0.0 if spread <= 0 else float(weight_B @ ((old_B - old_mean) * (new_B - new_mean))) / spread
        if slope <= 0:
            return arms
        mapped_K = new_mean + slope * (self.mean_K - old_mean)
        most = self._worth(arms, both, mapped_K)
        worth_K = np.where(self.count_K > 0, np.clip(np.rint(self.discount * self.count_K), 1, most), 0).astype(
            np.int64
        )
        squares_K = slope**2 * self.squares_K * worth_K / np.maximum(self.count_K, 1)
        return _with_draws(arms, worth_K, mapped_K, squares_K)

    def _worth(self, arms: ArmStatistics, both: np.ndarray, mapped_K: Real) -> float:
        """Return how many draws of now an old mean is worth at most: as its error is that of so many."""
        within = arms.pooled_variance
        weight_B = arms.count_K[both].astype(np.float64)
        moved = float(np.average((arms.mean_K - mapped_K)[both] ** 2 - within / weight_B, weights=weight_B))
        return max(1.0, within / moved) if moved > 0 and within > 0 else np.inf


def _with_draws(arms: ArmStatistics, more_K: IntArray, mean_K: Real, squares_K: Real) -> ArmStatistics:
    """Merge further draws in; what remains of an arm, and what is in flight, stays as it was."""
    count_K = arms.count_K + more_K
    share_K = more_K / np.maximum(count_K, 1)
    delta_K = np.where(more_K > 0, mean_K - arms.mean_K, 0.0)
    return replace(
        arms,
        size_K=arms.size_K + more_K,
        drawn_K=arms.drawn_K + more_K,
        count_K=count_K,
        mean_K=arms.mean_K + delta_K * share_K,
        squares_K=arms.squares_K + squares_K + delta_K**2 * arms.count_K * share_K,
    )
