"""Stop when enough of the true top k was scored: audits at looks fixed beforehand, and what they certify.

The promise: with the asked confidence a run never stops, at any of its looks, with less than the asked recall. How it
is kept:

- Looks, the draws and audits before each, and the error that each may spend follow from the configuration alone; the
  errors add up to 1 - confidence, so that whichever look a run stops at, the promise holds over all of them (union
  bound; whatever the looks have in common).
- The audited are the first of one random order of the pool among those that the search has not drawn. The search never
  learns what an audit found, so given its draws the audited are a uniform sample of the undrawn, at every look, and an
  audit paid at one look counts at all later ones.
- Let w of the true top k be undrawn, X of these audited. Then k - w drawn samples are in the top, so X lies between the
  audited above the (k - w)-th best drawn reward and those above the (k - w + 1)-th. A w is refused when so few would be
  improbable, with at most the look's error, under the hypergeometric law of (undrawn, w, audited). For every w not
  refused, the share scored is at least 1 - (w - lower count) / k. Rewards may have any distribution.

What is audited is scored, hence counts as found and may be selected.
"""

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb import config
from clusterucb.audit import log_choose
from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Look:
    """When `draws` samples were drawn and `audited` of the others were scored, once; it may err with `error`."""

    draws: int
    audited: int
    error: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """Share of the true top k that was scored: an estimate, and bounds each of which fails with the look's error."""

    recall: float
    low: float
    high: float


def looks_of(until: config.Until, limit: int, start: int) -> tuple[Look, ...]:
    """Return the looks of a budget of `limit` samples whose first round has `start` draws, evenly spaced.

    A later look may err more, in proportion to its number: at an early one a certificate is unlikely.
    """
    most = max(start, limit - int(until.audit * limit))
    numbers = np.arange(1, until.looks + 1)
    draws = start + (most - start) * numbers // until.looks
    audited = np.minimum(draws * until.audit / (1 - until.audit), limit - draws).astype(np.int64)
    audited[-1] = limit - draws[-1]
    errors = (1 - until.confidence) * numbers / numbers.sum()
    looks = [Look(int(d), int(a), float(e)) for d, a, e in zip(draws, audited, errors, strict=True)]
    return tuple(look for i, look in enumerate(looks) if i == len(looks) - 1 or look.draws < looks[i + 1].draws)


def order_of(samples: IntArray, rng: np.random.Generator) -> IntArray:
    """Return the order in which samples are audited."""
    return rng.permutation(samples)


def audited_at(look: Look, order: IntArray, undrawn: IntArray) -> IntArray:
    """Return the samples that a look rests on, in order of audit."""
    return order[np.isin(order, undrawn)][: look.audited]


def certify(drawn_rewards: Real, audit_rewards: Real, num_undrawn: int, k: int, error: float) -> Certificate:
    """Bound the share of the true top k that was scored, from all drawn rewards and the audited (NaN: failed)."""
    audited = len(audit_rewards)
    assert audited <= num_undrawn, f"{audited} audited of {num_undrawn} undrawn"
    best = np.full(k, -np.inf)
    ranked = np.sort(drawn_rewards)[::-1][:k]
    best[: len(ranked)] = ranked
    found = np.sort(audit_rewards[np.isfinite(audit_rewards)])
    above_k = np.concatenate(([0], len(found) - np.searchsorted(found, best, side="right")))  # audited above x_0 .. x_k

    def fewest(w: int) -> int:
        return min(int(above_k[k - w]), w)

    def most(w: int) -> int:
        return min(int(above_k[k - w + 1]), w) if w else 0

    # Both counts fall as w grows, so that one test refuses everything above some w, the other everything below.
    candidates = range(min(k, num_undrawn) + 1)
    largest = bisect_left(candidates, True, 1, key=lambda w: _at_most(most(w), num_undrawn, w, audited) <= error) - 1
    smallest = bisect_left(
        candidates, True, 0, largest, key=lambda w: 1 - _at_most(above_k[k - w] - 1, num_undrawn, w, audited) > error
    )
    left = num_undrawn - audited  # no more than these can be missed
    low, high = 1.0 - min(largest - fewest(largest), left) / k, 1.0 - (smallest - most(smallest)) / k
    recall = min(max(_estimated(best, found, num_undrawn, audited, k), low), high)
    return Certificate(recall, low, high)


def least_audit(until: config.Until, num_undrawn: int, k: int, error: float) -> int:
    """Return how many must be audited for a certificate if none of them is in the top k: fewer never suffice."""
    wrong = min(int((1 - until.recall) * k + 1e-9) + 1, num_undrawn)  # undrawn of the top k that must be ruled out
    low, high = 0, num_undrawn
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _at_most(0, num_undrawn, wrong, middle) <= error else (middle + 1, high)
    return low


def _at_most(count: int, population: int, successes: int, drawn: int) -> float:
    """Return the probability of `count` successes or fewer among `drawn` of a population."""
    counts = np.arange(max(0, drawn - (population - successes)), min(count, successes, drawn) + 1)
    if not len(counts):
        return 0.0
    logs = log_choose(successes, counts) + log_choose(population - successes, drawn - counts)
    return float(min(np.exp(logs - log_choose(population, np.array(drawn))).sum(), 1.0))


def _estimated(best: Real, found: Real, num_undrawn: int, audited: int, k: int) -> float:
    """Return the scored share of the first k units of weight: an audited sample stands for undrawn / audited."""
    if not audited:
        return float(np.isfinite(best).sum() / k) if not num_undrawn else 0.0
    weight = num_undrawn / audited
    rewards = np.concatenate((best[np.isfinite(best)], found))
    drawn = np.arange(len(rewards)) < len(rewards) - len(found)
    order = np.argsort(-rewards, kind="stable")
    ends = np.minimum(np.cumsum(np.where(drawn, 1.0, weight)[order]), k)
    units = np.diff(ends, prepend=0.0)
    return float((units * np.where(drawn[order], 1.0, 1.0 / weight)).sum() / k)
