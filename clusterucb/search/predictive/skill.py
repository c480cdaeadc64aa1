"""Whether prediction has shown skill: rounds predicted before they were seen, against the means of their clusters.

Both predictions of a draw are normal densities, made when its round was planned; the score is the sum of their log
ratios, each bounded, older rounds fading by a tenth a round. At or above zero the model has at least the clusters'
skill.
"""

from dataclasses import dataclass

import numpy as np

from clusterucb.search.arms import Real

FADING = 0.9
BOUND = 3.0
"""A single draw's log ratio counts for no more: an outlier is no proof."""


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """Normal predictions of B draws."""

    mean_B: Real
    deviation_B: Real

    def log_density(self, rewards_B: Real) -> Real:
        """Return each reward's log density, up to a constant."""
        return -0.5 * ((rewards_B - self.mean_B) / self.deviation_B) ** 2 - np.log(self.deviation_B)

    def take(self, positions: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> "Forecast":
        """Return the predictions of some of the draws."""
        return Forecast(self.mean_B[positions], self.deviation_B[positions])


@dataclass(frozen=True, slots=True)
class Skill:
    """The score so far."""

    score: float = 0.0

    @property
    def shown(self) -> bool:
        """Whether the model may decide the next round; it may as long as nothing speaks against it."""
        return self.score >= 0.0

    def seen(self, model: Forecast, clusters: Forecast, rewards_B: Real) -> "Skill":
        """Return the score with one more round."""
        ratio_B = model.log_density(rewards_B) - clusters.log_density(rewards_B)
        return Skill(FADING * self.score + float(np.clip(ratio_B, -BOUND, BOUND).sum()))
