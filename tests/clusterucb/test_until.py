"""Certificates hold as often as they promise, over all looks of a run, and say everything where everything is known."""

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from clusterucb import config
from clusterucb.compare.simulate import simulate_until
from clusterucb.until import Look, audited_at, certify, least_audit, looks_of, order_of


def brute_force(drawn: np.ndarray, audited: np.ndarray, num_undrawn: int, k: int, error: float) -> tuple[float, float]:
    """Bound the scored share by trying every number of undrawn top samples."""
    best = [np.inf, *np.sort(drawn)[::-1][:k], *[-np.inf] * k][: k + 1]
    m, lows, highs = len(audited), [], []
    for w in range(min(k, num_undrawn) + 1):
        fewest = min(int((audited > best[k - w]).sum()), w)
        most = min(int((audited > best[k - w + 1]).sum()), w) if w else 0
        law = [comb(w, x) * comb(num_undrawn - w, m - x) / comb(num_undrawn, m) for x in range(m + 1)]
        if sum(law[: most + 1]) > error:
            lows.append(1 - min(w - fewest, num_undrawn - m) / k)
        if sum(law[int((audited > best[k - w]).sum()) :]) > error:
            highs.append(1 - (w - most) / k)
    return min(lows), max(highs)


@settings(deadline=None, max_examples=60)
@given(num_drawn=st.integers(1, 30), num_undrawn=st.integers(0, 40), data=st.data())
def test_bounds_are_those_of_brute_force(num_drawn: int, num_undrawn: int, data: st.DataObject):
    k = data.draw(st.integers(1, num_drawn + num_undrawn))
    audited = data.draw(st.integers(0, num_undrawn))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    rewards = rng.permutation(num_drawn + num_undrawn).astype(float)
    drawn, sample = rewards[:num_drawn], rewards[num_drawn : num_drawn + audited]
    found = certify(drawn, sample, num_undrawn, k, 0.1)
    low, high = brute_force(drawn, sample, num_undrawn, k, 0.1)
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(max(high, found.low))
    assert found.low - 1e-9 <= found.recall <= found.high + 1e-9
    if audited == num_undrawn:
        assert found.low == pytest.approx(1.0)


@given(
    limit=st.integers(1, 5000),
    start=st.floats(0, 1),
    looks=st.integers(1, 30),
    share=st.floats(0.01, 0.9),
    confidence=st.floats(0.5, 0.99),
)
def test_looks_spend_the_budget_and_the_error_and_no_more(limit, start, looks, share, confidence):
    until = config.Until(recall=0.9, looks=looks, audit=share, confidence=confidence)
    cold = int(start * limit)
    found = looks_of(until, limit, cold)
    assert found[-1].draws + found[-1].audited == limit
    assert all(look.draws >= cold and look.draws + look.audited <= limit for look in found)
    assert all(one.draws < other.draws and one.audited <= other.audited + 1 for one, other in pairwise(found))
    assert sum(look.error for look in found) <= 1 - confidence + 1e-9


def test_what_was_audited_stays_so_while_it_is_undrawn():
    order = order_of(np.arange(100), np.random.default_rng(0))
    undrawn, before = np.arange(100), np.empty(0, np.int64)
    rng = np.random.default_rng(1)
    for audited in (10, 15, 20, 25):
        undrawn = np.sort(rng.permutation(undrawn)[15:])
        now = audited_at(Look(0, audited, 0.01), order, undrawn)
        assert len(now) == audited
        assert set(before.tolist()) & set(undrawn.tolist()) <= set(now.tolist())
        before = now


def test_a_failed_audit_counts_as_audited_and_above_nothing():
    drawn = np.arange(50.0)
    failing = certify(drawn, np.array([60.0, 1.0, np.nan]), 100, 10, 0.05)
    assert failing == certify(drawn, np.array([60.0, 1.0, 0.0]), 100, 10, 0.05)


def test_fewer_audits_than_the_least_never_suffice():
    until = config.Until(recall=0.8)
    for num_undrawn in (50, 400, 3000):
        least = least_audit(until, num_undrawn, 60, 0.02)
        drawn, below = np.arange(100.0, 200.0), np.zeros(num_undrawn)
        assert certify(drawn, below[:least], num_undrawn, 60, 0.02).low >= 0.8
        assert certify(drawn, below[: least - 1], num_undrawn, 60, 0.02).low < 0.8


@pytest.mark.parametrize("kind", ["ucb_beta", "uniform"])
def test_no_look_promises_too_much_more_often_than_agreed(kind: str):
    wrong, low, reached = 0, 0, 0
    runs = 120
    for seed in range(runs):
        rng = np.random.default_rng([seed, 7])
        labels_N = rng.integers(0, 12, 700).astype(np.int32)
        rewards_N = 0.7 * rng.normal(size=12)[labels_N] + 0.7 * rng.normal(size=700)
        until = config.Until(recall=0.7, confidence=0.7, looks=6)
        allocator = config.UcbBeta() if kind == "ucb_beta" else config.Uniform()
        search = config.Search(budget=0.9, until=until, allocator=allocator, cold_start_min=1)
        run = simulate_until(rewards_N, labels_N, search, 0.1, rng, np.random.default_rng([seed, 8]), stop=False)
        at = next((i for i, found in enumerate(run.certificates) if found.low >= 0.7), None)
        reached += at is not None
        wrong += at is not None and run.recalls[at] < 0.7 - 1e-9
        low += any(c.low > r + 1e-9 for c, r in zip(run.certificates, run.recalls, strict=True))
    assert reached > runs / 2
    assert wrong <= 0.3 * runs
    assert low <= 0.3 * runs
    assert low > 0, "bounds that never fail are wider than they need be"


@pytest.mark.parametrize("bad", [{"recall": 1.0}, {"recall": 0.9, "confidence": 0.3}, {}, {"recall": 0.9, "audit": 0}])
def test_impossible_promises_are_refused(bad: dict):
    with pytest.raises(ValidationError):
        config.Until(**bad)
