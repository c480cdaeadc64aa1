"""How far an arm's mean can be trusted: variance within and between arms, and the posterior mean they imply.

A model of normal arms with normal rewards (empirical Bayes): the arm means spread around a grand mean with variance
`between`, an arm's rewards around its mean with variance `within`; both are moment estimates (DerSimonian and Laird
1986).
"""

from dataclasses import dataclass

import numpy as np

from clusterucb.search.arms import ArmStatistics, Real


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """Variance components, and each arm's posterior; an arm without rewards has the grand mean."""

    within: float
    between: float
    mean_K: Real
    std_K: Real

    @property
    def between_share(self) -> float:
        """Share of the variance that lies between arms: near 0, clusters tell nothing of the reward."""
        total = self.within + self.between
        return self.between / total if total > 0 else 0.0


def components(arms: ArmStatistics) -> Components:
    """Estimate from all rewards observed so far (at least one)."""
    n_K, mean_K = arms.count_K.astype(np.float64), arms.mean_K
    seen, total = n_K > 0, n_K.sum()
    within = arms.pooled_variance
    grand = float(n_K @ mean_K / total)
    spread = float(n_K @ (mean_K - grand) ** 2) - (seen.sum() - 1) * within
    effective = float(total - n_K @ n_K / total)
    between = max(spread / effective, 0.0) if effective > 0 else 0.0
    if within == 0.0:
        return Components(within, between, np.where(seen, mean_K, grand), np.zeros(len(arms)))
    weight_K = between / (between + within / np.maximum(n_K, 1.0)) * seen
    if between > 0:
        grand = float(weight_K @ mean_K / weight_K.sum())
    posterior_std_K = np.sqrt(np.where(seen, weight_K * within / np.maximum(n_K, 1.0), between))
    return Components(within, between, grand + weight_K * (mean_K - grand), posterior_std_K)
