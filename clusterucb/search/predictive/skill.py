"""Whether prediction has lost its skill: rounds predicted before they were seen, against the means of their clusters.

Both predictions of a draw are normal densities, made when its round was planned. The score is the sum of their log
ratios, each bounded, older rounds fading by a tenth a round. Prediction has no skill where the score lies further below
zero than chance would bring it: by `WORSE` times the root of the ratios' squares.
"""

from dataclasses import dataclass

import numpy as np

from clusterucb.search.arms import Real
from clusterucb.types import IntArray

FADING = 0.9
BOUND = 3.0
"""A single draw's log ratio counts for no more: an outlier is no proof."""
WORSE = 1.64
"""Standard errors below zero at which the clusters decide: one error in twenty."""


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Normal predictions of B draws."""

    mean_B: Real
    deviation_B: Real

    def log_density(self, rewards_B: Real) -> Real:
        """Return each reward's log density, up to a constant."""
        return -0.5 * ((rewards_B - self.mean_B) / self.deviation_B) ** 2 - np.log(self.deviation_B)

    def take(self, positions: IntArray) -> "Forecast":
        """Return the predictions of some of the draws."""
        return Forecast(self.mean_B[positions], self.deviation_B[positions])


@dataclass(frozen=True, slots=True)
class Skill:
    """The score so far, and the sum of squares that says how far chance would bring it."""

    score: float = 0.0
    squares: float = 0.0

    @property
    def lost(self) -> bool:
        """Whether the clusters predict better than the model, beyond chance."""
        return self.score < -WORSE * self.squares**0.5

    def seen(self, model: Forecast, clusters: Forecast, rewards_B: Real) -> "Skill":
        """Return the score with one more round."""
        ratio_B = np.clip(model.log_density(rewards_B) - clusters.log_density(rewards_B), -BOUND, BOUND)
        return Skill(FADING * self.score + float(ratio_B.sum()), FADING**2 * self.squares + float(ratio_B @ ratio_B))
