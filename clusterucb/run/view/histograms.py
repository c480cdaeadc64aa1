"""Distributions in a few dozen bins, however many samples there are."""

import math

import numpy as np
import numpy.typing as npt

from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]

_BINS = 48
_LENGTH_BINS = 28


def value_edges(values: Real) -> Real:
    """Return the edges of equal bins around values, at round numbers."""
    low, high = float(values.min()), float(values.max())
    spread = max(high - low, 1e-6)  # finer bins than float32 rewards can tell apart say nothing
    step = _round_step(spread / _BINS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return np.array([round(i * step, 12) for i in range(first, max(last, first + 1) + 1)])


def length_edges(lengths: IntArray) -> Real:
    """Return whole edges around lengths, in equal ratios as far as whole numbers allow."""
    low, high = max(1, int(lengths.min())), int(lengths.max()) + 1
    return np.unique(np.round(np.geomspace(low, high, _LENGTH_BINS + 1))).astype(np.float64)


def counts(values: npt.NDArray[np.float64] | IntArray, edges: Real) -> tuple[int, ...]:
    """Count values by bin; what lies outside counts in the first or the last."""
    found, _ = np.histogram(np.clip(values, edges[0], edges[-1]), bins=edges)
    return tuple(found.tolist())


def median(values: npt.NDArray[np.float64] | IntArray) -> float | None:
    """Return the median; none of nothing."""
    return float(np.median(values)) if len(values) else None


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 2.5 and 5 times a power of ten that is no less."""
    power = 10.0 ** np.floor(np.log10(least))
    return float(next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= least * (1 - 1e-9)))
