"""The running top-p threshold over all rewards so far, and how many of each arm's rewards reach it.

Rewards are kept sorted and new ones are merged in: a round costs one merge, never a sort of everything.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clusterucb.types import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class TopShare:
    """All rewards in ascending order with the arm of each. The threshold is the (floor(share * n) + 1)-th largest."""

    share: float
    rewards: npt.NDArray[np.float64]
    arms: npt.NDArray[np.int32]

    @classmethod
    def empty(cls, share: float) -> "TopShare":
        """Start with no rewards."""
        return cls(share, np.empty(0), np.empty(0, dtype=np.int32))

    def merge(self, arms_B: npt.NDArray[np.int32], rewards_B: npt.NDArray[np.float64]) -> "TopShare":
        """Return the structure with B more rewards."""
        new = np.argsort(rewards_B, kind="stable")
        at = np.searchsorted(self.rewards, rewards_B[new], side="right")
        return replace(
            self,
            rewards=np.insert(self.rewards, at, rewards_B[new]),
            arms=np.insert(self.arms, at, arms_B[new]),
        )

    @property
    def value(self) -> float:
        """The threshold; minus infinity before the first reward."""
        if not len(self.rewards):
            return -np.inf
        above = min(int(self.share * len(self.rewards) + 1e-9), len(self.rewards) - 1)
        return float(self.rewards[-1 - above])

    def hits_K(self, num_arms: int) -> IntArray:
        """Return each arm's number of rewards at or above the threshold."""
        first = np.searchsorted(self.rewards, self.value, side="left")
        return np.bincount(self.arms[first:], minlength=num_arms)
