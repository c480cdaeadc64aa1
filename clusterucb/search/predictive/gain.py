"""Which samples are worth a draw: the expected amount by which their reward exceeds the running top-k threshold."""

from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr  # pyright: ignore[reportMissingTypeStubs]

from clusterucb.search.arms import Real
from clusterucb.types import IntArray

_TAIL = -6.0
"""Below so many deviations the gain is taken from its asymptotic series: the difference that defines it cancels."""
_LOG_ROOT_TAU = 0.5 * float(np.log(2 * np.pi))


def log_expected_gain(mean_B: Real, deviation_B: Real, threshold: float) -> Real:
    """Return log E[max(reward - threshold, 0)] of normal rewards; it ranks even where the gain itself vanishes."""
    u_B = (mean_B - threshold) / deviation_B
    body_B = np.maximum(u_B, _TAIL)
    log_gain_B = np.log(body_B * ndtr(body_B) + np.exp(-0.5 * body_B**2 - _LOG_ROOT_TAU))
    far = u_B < _TAIL
    if far.any():
        inverse = 1.0 / u_B[far] ** 2
        series = np.log(inverse) + np.log1p(-3.0 * inverse * (1.0 - 5.0 * inverse))
        log_gain_B[far] = -0.5 * u_B[far] ** 2 - _LOG_ROOT_TAU + series
    return log_gain_B + np.log(deviation_B)


def log_total(log_gains_MB: Sequence[Real], scales: Sequence[float]) -> Real:
    """Return the log of the sum over targets of scale * gain: what one draw is worth to all of them."""
    if len(log_gains_MB) == 1:
        return log_gains_MB[0]
    return np.logaddexp.reduce([gain_B + np.log(scale) for gain_B, scale in zip(log_gains_MB, scales, strict=True)])


def top_threshold(rewards: Real, k: int) -> float:
    """Return the k-th largest reward so far; the smallest where there are fewer."""
    k = min(k, len(rewards))
    return float(np.partition(rewards, len(rewards) - k)[len(rewards) - k])


def best(values_N: Real, count: int) -> IntArray:
    """Return the positions of the `count` largest finite values, ascending; equal ones by the lowest position."""
    finite = int(np.isfinite(values_N).sum())
    count = min(count, finite)
    if count == 0:
        return np.empty(0, dtype=np.int64)
    cut = np.partition(values_N, len(values_N) - count)[len(values_N) - count]
    above = np.flatnonzero(values_N > cut)
    level = np.flatnonzero(values_N == cut)[: count - len(above)]
    return np.sort(np.concatenate((above, level)))
