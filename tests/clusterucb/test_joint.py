"""One selection for several targets: every rule is fair in its own sense, and none depends on the targets' scales."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterucb.joint import Scale, in_turns, joint_scores, served

RULES = ("round_robin", "mean", "max")
seeds = st.integers(0, 2**32 - 1)


def rewards(seed: int, samples: int = 60, targets: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(samples, targets))


@settings(max_examples=30, deadline=None)
@given(seed=seeds, rule=st.sampled_from(RULES))
def test_scale_and_shift_of_a_target_change_no_ranking(seed: int, rule) -> None:
    rewards_BM = rewards(seed)
    moved_BM = rewards_BM * np.array([100.0, 0.01, 1.0]) + np.array([5.0, -3.0, 0.0])
    plain, moved = (np.argsort(-joint_scores(each, (1.0, 2.0, 1.0), rule)) for each in (rewards_BM, moved_BM))
    np.testing.assert_array_equal(plain, moved)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, weights=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_turns_take_every_sample_once_and_give_each_target_its_share(seed: int, weights: list[int]) -> None:
    rewards_BM = rewards(seed, 80, len(weights))
    order = in_turns(rewards_BM, [float(weight) for weight in weights])
    assert sorted(order) == list(range(80))
    for m, weight in enumerate(weights):
        cycles = 5
        first = order[: cycles * sum(weights)]
        best = np.argsort(-rewards_BM[:, m], kind="stable")[: cycles * weight]
        assert np.isin(best, first).all()  # its best ones are in, whoever took them


@settings(max_examples=20, deadline=None)
@given(seed=seeds, rule=st.sampled_from(RULES))
def test_one_target_alone_is_ranked_by_its_rewards(seed: int, rule) -> None:
    rewards_BM = rewards(seed, targets=1)
    np.testing.assert_array_equal(np.argsort(-joint_scores(rewards_BM, (1.0,), rule)), np.argsort(-rewards_BM[:, 0]))


def test_a_target_without_differences_decides_nothing() -> None:
    rewards_BM = np.stack([np.full(20, 0.3), np.arange(20.0)], axis=1)
    for rule in ("mean", "max"):
        assert int(np.argmax(joint_scores(rewards_BM, (1.0, 1.0), rule))) == 19
    assert set(served(rewards_BM, (1.0, 1.0), Scale.of(rewards_BM))[15:]) == {1}


def test_a_weight_moves_the_mean_towards_its_target() -> None:
    rewards_BM = np.array([[3.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    assert joint_scores(rewards_BM, (3.0, 1.0), "mean").argmax() == 0
    assert joint_scores(rewards_BM, (1.0, 3.0), "mean").argmax() == 1
    first, second, third = joint_scores(rewards_BM, (1.0, 1.0), "mean")
    assert first == pytest.approx(second)
    assert first > third
