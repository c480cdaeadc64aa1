"""Differences are paired, and as sure as they look."""

import numpy as np
import pytest
from scipy import stats

from clusterucb.study.statistics import difference


def losses(
    rng: np.random.Generator, effect: float, seeds: int = 5, examples: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """Two arms that share how hard each example is, and that differ by `effect` beside small noise."""
    hard_E = rng.normal(2.0, 1.0, size=examples)
    theirs_RE = hard_E + rng.normal(0, 0.05, size=(seeds, examples))
    return hard_E + effect + rng.normal(0, 0.05, size=(seeds, examples)), theirs_RE


def test_what_examples_have_in_common_cancels():
    found = difference(*losses(np.random.default_rng(0), -0.1), np.random.default_rng(1))
    assert found.high < 0
    assert found.low < -0.1 < found.high or found.mean == pytest.approx(-0.1, abs=0.03)
    assert found.p is not None
    assert found.p < 0.01
    assert found.better == found.seeds == 5


def test_p_is_scipys_paired_t_over_seeds():
    ours_RE, theirs_RE = losses(np.random.default_rng(2), 0.02)
    wanted = stats.ttest_rel(ours_RE.mean(axis=1), theirs_RE.mean(axis=1)).pvalue
    assert difference(ours_RE, theirs_RE, np.random.default_rng(0)).p == pytest.approx(wanted)


def test_the_interval_covers_no_difference_about_as_often_as_it_says():
    rng = np.random.default_rng(3)
    found = [difference(*losses(rng, 0.0), rng) for _ in range(60)]
    assert sum(each.low <= 0 <= each.high for each in found) >= 52


def test_one_seed_is_no_test_and_arms_that_are_alike_are_not_apart():
    one_RE = np.random.default_rng(4).normal(size=(1, 9))
    found = difference(one_RE, one_RE + 0.5, np.random.default_rng(0))
    assert found.p is None
    assert found.mean == found.low == pytest.approx(-0.5)
    same_RE = np.repeat(one_RE, 3, axis=0)
    assert difference(same_RE, same_RE, np.random.default_rng(0)).p is None
