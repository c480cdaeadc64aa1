"""The audit estimates recall without knowing the true top k, and its interval covers as often as it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterucb import config
from clusterucb.audit import choose, estimate
from clusterucb.compare.simulate import simulate


def true_recall(drawn: np.ndarray, undrawn: np.ndarray, k: int) -> float:
    everything = np.concatenate((drawn, undrawn))
    return float((np.argsort(-everything)[:k] < len(drawn)).mean())


@settings(deadline=None)
@given(num_drawn=st.integers(1, 40), num_undrawn=st.integers(0, 60), data=st.data())
def test_auditing_everything_gives_the_recall_itself(num_drawn: int, num_undrawn: int, data) -> None:
    k = data.draw(st.integers(1, num_drawn))
    rewards = np.random.default_rng(data.draw(st.integers(0, 1000))).permutation(num_drawn + num_undrawn).astype(float)
    drawn, undrawn = rewards[:num_drawn], rewards[num_drawn:]
    found = estimate(drawn, undrawn, num_undrawn, k, 0.9)
    recall = true_recall(drawn, undrawn, k)
    assert found.recall == found.low == found.high == pytest.approx(recall)
    assert found.missed == (undrawn > np.sort(drawn)[-k]).sum()


@settings(deadline=None)
@given(audited=st.integers(1, 50), seed=st.integers(0, 1000))
def test_estimates_are_ordered_and_shrink_with_confidence(audited: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn, undrawn = rng.normal(size=100), rng.normal(size=300) - 0.5
    sample = undrawn[:audited]
    wide, narrow = (estimate(drawn, sample, 300, 20, confidence) for confidence in (0.95, 0.5))
    assert 0 <= wide.low <= narrow.low <= narrow.recall <= narrow.high <= wide.high <= 1


def test_failed_audits_count_as_audited_and_above_nothing() -> None:
    drawn = np.arange(50.0)
    rewards = np.array([60.0, 1.0, np.nan, np.nan])
    assert estimate(drawn, rewards, 100, 10, 0.9) == estimate(drawn, np.array([60.0, 1.0, 0.0, 0.0]), 100, 10, 0.9)


def test_the_audit_is_uniform_over_the_undrawn() -> None:
    undrawn = np.arange(0, 2000, 2)
    counts = np.zeros(2000)
    for seed in range(400):
        sample = choose(undrawn, 5000, config.Audit(samples=100), np.random.default_rng(seed))
        assert len(np.unique(sample)) == 100
        counts[sample] += 1
    assert counts[1::2].sum() == 0
    assert np.var(counts[::2]) == pytest.approx(400 * 0.1 * 0.9, rel=0.15)


def test_the_size_of_an_audit() -> None:
    undrawn, rng = np.arange(900), np.random.default_rng(0)
    assert len(choose(undrawn, 1200, config.Audit(), rng)) == 100
    assert len(choose(undrawn, 1000, config.Audit(), rng)) == 50  # half of the 100 drawn
    assert len(choose(undrawn, 50_000, config.Audit(), rng)) == 500
    assert len(choose(undrawn, 10**6, config.Audit(), rng)) == 900
    assert len(choose(undrawn, 1000, config.Audit(samples=0), rng)) == 0


@pytest.mark.parametrize(("audited", "bias"), [(50, 0.04), (200, 0.012)])
def test_interval_covers_and_estimate_is_nearly_unbiased(audited: int, bias: float) -> None:
    covered: list[bool] = []
    errors: list[float] = []
    missed: list[float] = []
    for table in range(20):
        rng = np.random.default_rng([table, 5])
        labels_N = rng.integers(0, 30, 3000).astype(np.int32)
        rewards_N = 0.7 * rng.normal(size=30)[labels_N] + 0.7 * rng.normal(size=3000)
        run = simulate(rewards_N, labels_N, config.Search(budget=0.2, cold_start=0.05), 0.05, rng)
        undrawn = np.setdiff1d(np.arange(3000), run.drawn)
        threshold = np.sort(rewards_N[run.drawn])[-150]
        for _ in range(40):
            sample = choose(undrawn, 3000, config.Audit(samples=audited), rng)
            found = estimate(rewards_N[run.drawn], rewards_N[sample], len(undrawn), 150, 0.9)
            covered.append(found.low - 1e-9 <= run.recall <= found.high + 1e-9)
            errors.append(found.recall - run.recall)
            missed.append(found.missed - (rewards_N[undrawn] > threshold).sum())
    assert 0.87 < np.mean(covered) < 0.95
    assert abs(np.mean(errors)) < bias
    assert abs(np.mean(missed)) < 3 * np.std(missed) / np.sqrt(len(missed))
