"""What influence is corrected for before samples are ranked: the length of their answers, in tokens with loss.

Influence is a cosine, so the length of the gradient is gone already; what is left is that a mean over few tokens points
one way more often than one over many. A `Correction` is fitted to samples that were scored, and is from then on a fixed
function of (influence, length): the audited are corrected by what was fitted without them, and the audit of the
corrected ranking stays as exact as that of influence itself.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clusterucb.config import LengthQuantile, LengthTrend, Normalise
from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]


class Correction(Protocol):
    """What samples of these influences and answer lengths are ranked by."""

    def __call__(self, influence_B: Real, lengths_B: IntArray) -> Real:
        """Return one value a sample, higher for better."""
        ...


@dataclass(frozen=True, slots=True)
class Uncorrected:
    """The influence itself."""

    def __call__(self, influence_B: Real, lengths_B: IntArray) -> Real:
        """Return it as it is."""
        return influence_B


@dataclass(frozen=True, slots=True)
class Trend:
    """Influence less a line over log length, which is left at its height for the mean log length."""

    slope: float
    mean_log: float

    @classmethod
    def fitted(cls, influence_B: Real, lengths_B: IntArray) -> "Trend":
        """Fit by least squares; flat where the lengths do not differ."""
        logs_B = np.log(lengths_B.astype(np.float64))
        if not len(logs_B) or lengths_B.min() == lengths_B.max():
            return cls(0.0, 0.0)
        off_B = logs_B - logs_B.mean()
        return cls(float(off_B @ influence_B) / float(off_B @ off_B), float(logs_B.mean()))

    def __call__(self, influence_B: Real, lengths_B: IntArray) -> Real:
        """Return the residuals, at the scale of influence."""
        return influence_B - self.slope * (np.log(lengths_B.astype(np.float64)) - self.mean_log)


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """One less the share of its length class that lies above a sample, as far as that was scored.

    The share is of the class's samples in the pool, so that the first p of the ranking are p of each class. Inside a
    class the order is that of influence.
    """

    edges: IntArray
    """A sample of length n is of class `searchsorted(edges, n, "right")`."""
    sizes: IntArray
    """The pool's samples of each class."""
    scored: tuple[Real, ...]
    """Influences fitted to, of each class, ascending."""

    @classmethod
    def fitted(cls, influence_B: Real, lengths_B: IntArray, pool_lengths: IntArray, buckets: int) -> "Classes":
        """Cut the pool's lengths into classes of equal size, as far as equal lengths allow."""
        ordered = np.sort(pool_lengths)
        starts = np.arange(1, buckets) * len(ordered) // buckets
        edges = np.setdiff1d(ordered[starts], ordered[:1])
        sizes = np.bincount(np.searchsorted(edges, pool_lengths, side="right"), minlength=len(edges) + 1)
        of_B = np.searchsorted(edges, lengths_B, side="right")
        return cls(edges, sizes, tuple(np.sort(influence_B[of_B == each]) for each in range(len(sizes))))

    def __call__(self, influence_B: Real, lengths_B: IntArray) -> Real:
        """Return the values; equal influences of a class have the middle of their places."""
        of_B = np.searchsorted(self.edges, lengths_B, side="right")
        values_B = np.empty(len(influence_B))
        for each, scored in enumerate(self.scored):
            among = of_B == each
            above = len(scored) - np.searchsorted(scored, influence_B[among], side="right")
            equal = len(scored) - above - np.searchsorted(scored, influence_B[among], side="left")
            values_B[among] = 1.0 - (above + equal / 2) / max(int(self.sizes[each]), 1)
        return values_B


def fit_correction(
    normalise: Normalise,
    influence_B: Real,
    lengths_B: IntArray,
    unsteered_B: npt.NDArray[np.bool_],
    pool_lengths: IntArray,
) -> Correction:
    """Fit to scored samples and their answer lengths. `unsteered_B` marks those that no reward has led to: the trend is
    theirs, for where the search follows influence, short answers are there for their length and long ones for their
    worth.
    """
    match normalise:
        case LengthTrend():
            return Trend.fitted(influence_B[unsteered_B], lengths_B[unsteered_B])
        case LengthQuantile(buckets=buckets):
            return Classes.fitted(influence_B, lengths_B, pool_lengths, buckets)
        case _:
            return Uncorrected()
