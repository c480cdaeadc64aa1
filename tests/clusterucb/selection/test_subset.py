"""The k best, equal ones by id, whatever order the scores come in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterucb.config import Selection
from clusterucb.errors import ConfigError
from clusterucb.selection import select

scored = st.lists(st.integers(-3, 3), min_size=1, max_size=30)


@given(rewards=scored, count=st.integers(1, 30), seed=st.integers(0, 1000))
def test_the_best_are_selected_in_any_order_of_scores(rewards: list[int], count: int, seed: int) -> None:
    count = min(count, len(rewards))
    order = np.random.default_rng(seed).permutation(len(rewards))
    rewards_B = np.array(rewards, dtype=np.float64)
    ids = [f"id-{i:02}" for i in order]
    subset = select(order, rewards_B[order], ids, (), Selection(count=count), 100)
    expected = sorted(range(len(rewards)), key=lambda i: (-rewards[i], f"id-{i:02}"))[:count]
    assert subset.samples_B.tolist() == expected
    assert subset.rewards_B.tolist() == [rewards[i] for i in expected]
    assert subset.threshold == rewards[expected[-1]]
    assert len(subset) == count


def test_a_share_is_of_the_pool_and_not_of_the_scored() -> None:
    subset = select(np.arange(40), np.arange(40.0), [str(i) for i in range(40)], (), Selection(share=0.1), 200)
    assert subset.samples_B.tolist() == list(range(39, 19, -1))


def test_more_than_was_scored_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"asks for 10 samples but only 4 were scored: lower .* raise search.budget"):
        select(np.arange(4), np.arange(4.0), list("abcd"), (), Selection(count=10), 100)


def test_failed_samples_never_get_here() -> None:
    with pytest.raises(AssertionError, match="failed sample"):
        select(np.arange(2), np.array([1.0, np.nan]), ["a", "b"], (), Selection(count=1), 2)
