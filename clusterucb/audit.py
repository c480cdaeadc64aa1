"""How much of the true top k the search drew, estimated from a uniform sample of what it did not draw.

Let x_1 > x_2 > .. be the drawn rewards and M(x) the number of undrawn samples above x, which is unknown. The j-th best
drawn sample belongs to the pool's true top k exactly when M(x_j) <= k - j, so recall is J / k with J the largest such
j. Of the m audited samples, the X_j above x_j are hypergeometric with M(x_j) successes among the u undrawn: the drawn
rewards are fixed, only the audit is random, and no distribution of rewards is assumed.

- The estimate gives every audited sample weight u / m and every drawn one 1, and returns the drawn share of the first k
  units of weight from the best down: J with M replaced by its unbiased estimate. Its bias is a fraction of what one
  audited sample stands for, u / (m k), and far below its standard error. `missed`, the undrawn samples above the
  selection's own threshold, is exactly unbiased, and 1 - missed / k is recall's pessimistic bound.
- The interval keeps every j that a test at the error rate does not refuse: j is refused as too large when so many
  audited samples above x_j would be implausible with M(x_j) = k - j, and as too small when so few above x_{j+1} would
  be. For the true J both test a true hypothesis, so the many j need no correction. Plausibility is the probability of
  the outcomes at least as far out, in either tail (Blaker 2000), the observed one counted by half (mid-p): the counts
  of a small audit are coarse, and exact or equal tails would cover too often.

A sample that fails when audited is not in the true top k: it counts as audited and above nothing.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln  # pyright: ignore[reportMissingTypeStubs]

from clusterucb import config
from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]

_LEAST = 100
"""Audited samples at least: with 32 a 90 % interval is 0.8 wide at a budget of 20 %, with 100 it is 0.3."""


@dataclass(frozen=True, slots=True)
class AuditEstimate:
    """Estimated recall of the true top k by the drawn samples, with a confidence interval."""

    recall: float
    low: float
    high: float
    missed: float
    """Undrawn samples above the selection's threshold: an unbiased estimate of the count."""
    audited: int
    confidence: float


def choose(undrawn: IntArray, num_usable: int, audit: config.Audit, rng: np.random.Generator) -> IntArray:
    """Return a uniform sample, ascending, of the undrawn ones among the pool's `num_usable` samples."""
    wanted = audit.samples
    if wanted == "auto":
        wanted = min(max(_LEAST, int(0.01 * num_usable)), (num_usable - len(undrawn)) // 2)
    return np.sort(rng.choice(undrawn, size=min(wanted, len(undrawn)), replace=False))


def estimate(drawn_rewards: Real, audit_rewards: Real, num_undrawn: int, k: int, confidence: float) -> AuditEstimate:
    """Estimate recall from all drawn rewards and those of a uniform sample of the undrawn others (NaN: failed)."""
    audited = len(audit_rewards)
    assert k <= len(drawn_rewards), f"top {k} of {len(drawn_rewards)} drawn"
    assert min(1, num_undrawn) <= audited <= num_undrawn, f"{audited} audited of {num_undrawn} undrawn"
    best = np.sort(drawn_rewards)[::-1][:k]
    found = np.sort(audit_rewards[np.isfinite(audit_rewards)])
    above_k = len(found) - np.searchsorted(found, best, side="right")  # X_1, .., X_k
    weight = num_undrawn / audited if audited else 1.0
    recall = _weighted_recall(best, found, weight, k)
    low, high = _interval(above_k, num_undrawn, audited, 1.0 - confidence)
    missed = float(above_k[-1] * weight)
    return AuditEstimate(recall, min(low / k, recall), max(high / k, recall), missed, audited, confidence)


def _weighted_recall(best: Real, found: Real, weight: float, k: int) -> float:
    """Return the drawn share of the first k units of weight."""
    rewards = np.concatenate((best, found))
    drawn = np.arange(len(rewards)) < len(best)
    order = np.argsort(-rewards, kind="stable")
    ends = np.minimum(np.cumsum(np.where(drawn, 1.0, weight)[order]), k)
    return float(np.diff(ends, prepend=0.0)[drawn[order]].sum() / k)


def _interval(above_k: IntArray, num_undrawn: int, audited: int, error: float) -> tuple[int, int]:
    """Return the smallest and the largest J that is not refused; plausibility falls away from J on both sides."""
    k = len(above_k)

    def too_large(j: int) -> bool:  # M(x_j) is at most k - j
        return j > 0 and _plausibility(int(above_k[j - 1]), num_undrawn, k - j, audited, many=True) <= error

    def large_enough(j: int) -> bool:  # M(x_{j+1}) is at least k - j
        return j == k or _plausibility(int(above_k[j]), num_undrawn, k - j, audited, many=False) > error

    candidates = range(max(0, k - num_undrawn), k + 1)
    low = candidates[bisect_left(candidates, True, key=large_enough)]
    high = candidates[max(0, bisect_left(candidates, True, key=too_large) - 1)]
    return min(low, high), max(low, high)


def _plausibility(count: int, num_undrawn: int, above: int, audited: int, many: bool) -> float:
    """Return the probability of counts at least as extreme, upwards if `many`, as well as of the other tail's."""
    pmf = _hypergeometric(num_undrawn, above, audited)
    if not many:
        pmf, count = pmf[::-1], audited - count
    tail = float(pmf[count:].sum())
    other = np.cumsum(pmf[:count])
    return tail - float(pmf[count]) / 2 + float(other[other <= tail].max(initial=0.0))


def _hypergeometric(population: int, successes: int, drawn: int) -> Real:
    """Return the probabilities of 0, .., `drawn` successes in a sample of `drawn`."""
    counts = np.arange(drawn + 1)
    possible = (counts <= successes) & (drawn - counts <= population - successes)
    taken = counts[possible]
    pmf = np.zeros(drawn + 1)
    pmf[possible] = np.exp(
        log_choose(successes, taken)
        + log_choose(population - successes, drawn - taken)
        - log_choose(population, np.array(drawn))
    )
    return pmf


def log_choose(of: int, taken: IntArray) -> Real:
    """Return the logarithms of the binomial coefficients."""
    return np.asarray(gammaln(of + 1) - gammaln(taken + 1) - gammaln(of - taken + 1), dtype=np.float64)
