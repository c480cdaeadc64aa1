"""Whether the selection goes by the length of answers: looked at in every run, whatever it is ranked by."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]

STRONG = 0.3
"""A rank correlation of this size, either way, is worth a look: 9 % of the ranks' variance."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of answer lengths in tokens."""

    p10: float
    p25: float
    median: float
    p75: float
    p90: float

    @classmethod
    def of(cls, lengths: IntArray) -> "Quantiles":
        """Take them, interpolating between neighbours."""
        return cls(*np.quantile(lengths, (0.1, 0.25, 0.5, 0.75, 0.9)).tolist())


def rank_correlation(first_B: npt.NDArray[np.generic], second_B: npt.NDArray[np.generic]) -> float | None:
    """Return Spearman's coefficient, equal values sharing the mean of their ranks; None where one does not vary."""
    ranks = np.stack([_mean_ranks(values) for values in (first_B, second_B)])
    ranks -= ranks.mean(axis=1, keepdims=True)
    scale = float(np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    return float(ranks[0] @ ranks[1]) / scale if scale > 0 else None


def _mean_ranks(values_B: npt.NDArray[np.generic]) -> Real:
    _, which_B, counts = np.unique(values_B, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[which_B]
