"""What the search is told of a round: influence, or influence less its trend over answer length.

Invariant: a reward is the same number in every round, for the trend is fitted to round 0, which no reward led to,
before the search hears of any; the final ranking fits it to the same draws, so that the search looks for what is
selected. Quantiles cannot be had so: they depend on what is drawn later.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from clusterucb.config import LengthTrend, Normalise
from clusterucb.selection.length import Trend
from clusterucb.types import Observations


class SeenRewards:
    """Turns rounds into what is told, in order."""

    def __init__(self, normalise: Normalise, lengths_N: npt.NDArray[np.integer]) -> None:
        self._corrects = isinstance(normalise, LengthTrend)
        self._lengths_N = lengths_N
        self._trends: tuple[Trend, ...] = ()
        """One a target, once round 0 is known."""

    def of(self, round_index: int, observed: Observations) -> Observations:
        """Return the round as the search shall see it; rewards are B x M."""
        if not self._corrects:
            return observed
        lengths_B = self._lengths_N[observed.samples_B].astype(np.int64)
        if round_index == 0:
            self._trends = tuple(Trend.fitted(rewards_B, lengths_B) for rewards_B in observed.rewards_B.T)
        seen = [
            trend(rewards_B, lengths_B) for trend, rewards_B in zip(self._trends, observed.rewards_B.T, strict=True)
        ]
        return replace(observed, rewards_B=np.stack(seen, axis=1))
