"""Whether prediction shows skill beyond the clusters' means: a test on rounds predicted before they were seen.

Of every draw the model and the clusters alone predict the reward. Where the model knows more, what it says differently
goes with what the clusters got wrong: the products of (model - clusters) and (reward - clusters) are positive in the
mean (Chong and Hendry's encompassing test). Older rounds fade by a tenth a round. The test holds for draws that the
model chose and for draws of the fall-back alike, so that skill can be lost and regained.
"""

from dataclasses import dataclass

from clusterucb.search.arms import Real

FADING = 0.9
LEAST = 20
"""Predicted draws before which the model is given the benefit of the doubt."""


@dataclass(frozen=True, slots=True)
class Skill:
    """Faded sum of the products, and the number of draws judged."""

    score: float = 0.0
    draws: int = 0

    @property
    def lost(self) -> bool:
        """Whether the clusters should decide the next round."""
        return self.draws >= LEAST and self.score <= 0

    def seen(self, model_B: Real, clusters_B: Real, rewards_B: Real) -> "Skill":
        """Return the test with one more round: what model and clusters predicted, and what came."""
        products_B = (model_B - clusters_B) * (rewards_B - clusters_B)
        return Skill(FADING * self.score + float(products_B.sum()), self.draws + len(rewards_B))
