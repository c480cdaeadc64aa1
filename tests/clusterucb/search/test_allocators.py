"""Indices by their formulas; rounds shared out as draw by draw; statistics as recomputed from lists."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterucb import config
from clusterucb.search import ArmStatistics, ThreshHard, ThreshNormal, TopShare, Ucb1, UcbBeta, build_allocator
from clusterucb.search.allocators import top_share
from clusterucb.search.levels import fill_to_level
from clusterucb.search.rounds import cold_start_K, round_size
from clusterucb.search.shrinkage import components

rewards = st.floats(-10, 10, allow_nan=False, width=32)
arm_lists = st.lists(st.lists(rewards, min_size=1, max_size=12), min_size=1, max_size=6)
STRATEGIES = (UcbBeta(1.0), UcbBeta(1.0, official=True), Ucb1(1.0), ThreshHard(), ThreshNormal(), ThreshNormal(True))


def observed(lists: list[list[float]], sizes: list[int] | None = None, batch: int = 10**9) -> ArmStatistics:
    """Statistics after these rewards, told in batches."""
    size_K = np.array([len(arm) + 5 for arm in lists] if sizes is None else sizes)
    arms = ArmStatistics.of(size_K, top_share=0.25)
    flat = [(k, reward) for k, arm in enumerate(lists) for reward in arm]
    np.random.default_rng(0).shuffle(flat)
    none = np.empty(0, dtype=np.int32)
    for start in range(0, len(flat), batch):
        part = flat[start : start + batch]
        arms_B = np.array([k for k, _ in part], dtype=np.int32)
        arms = arms.plan(np.bincount(arms_B, minlength=len(size_K)))
        arms = arms.observe(arms_B, np.array([reward for _, reward in part], dtype=np.float64), none)
    return arms


@given(lists=arm_lists, batch=st.integers(1, 20))
def test_statistics_equal_those_of_the_lists(lists: list[list[float]], batch: int) -> None:
    arms = observed(lists, batch=batch)
    for k, arm in enumerate(lists):
        assert arms.count_K[k] == len(arm)
        assert arms.largest_K[k] == max(arm)
        assert arms.mean_K[k] == pytest.approx(np.mean(arm), abs=1e-9)
        assert arms.population_std_K[k] == pytest.approx(np.std(arm), abs=1e-6)
        if len(arm) > 1:
            assert arms.std_K[k] == pytest.approx(np.std(arm, ddof=1), abs=1e-6)


def test_deviations_survive_a_large_common_offset() -> None:
    spread = [0.001, 0.002, 0.004, 0.008]
    arms = observed([[1e6 + x for x in spread]], batch=1)
    assert arms.std_K[0] == pytest.approx(np.std(spread, ddof=1), rel=1e-3)


@given(lists=arm_lists)
def test_shrinkage_lies_between_the_arm_and_the_pool(lists: list[list[float]]) -> None:
    arms = observed(lists)
    pooled = math.sqrt(arms.pooled_variance)
    for k, arm in enumerate(lists):
        low, high = sorted((arms.std_K[k] if len(arm) > 1 else pooled, pooled))
        assert low - 1e-9 <= arms.shrunk_std_K[k] <= high + 1e-9


@given(lists=arm_lists, share=st.floats(0.01, 1.0), batch=st.integers(1, 9))
def test_the_threshold_is_an_order_statistic(lists: list[list[float]], share: float, batch: int) -> None:
    flat = [(k, reward) for k, arm in enumerate(lists) for reward in arm]
    top = TopShare.empty(share)
    for start in range(0, len(flat), batch):
        part = flat[start : start + batch]
        top = top.merge(np.array([k for k, _ in part], dtype=np.int32), np.array([reward for _, reward in part]))
    ranked = sorted((reward for _, reward in flat), reverse=True)
    assert top.value == ranked[min(int(share * len(flat) + 1e-9), len(flat) - 1)]
    hits = [sum(reward >= top.value for reward in arm) for arm in lists]
    assert top.hits_K(len(lists)).tolist() == hits


@given(lists=arm_lists)
def test_indices_follow_their_formulas(lists: list[list[float]]) -> None:
    arms = observed(lists)
    assert arms.top is not None
    total, tau = sum(map(len, lists)), arms.top.value
    ucb1, hard, normal = Ucb1(2.0).indices(arms), ThreshHard().indices(arms), ThreshNormal(True).indices(arms)
    paper = UcbBeta(1.5, official=True).indices(arms)
    for k, arm in enumerate(lists):
        mean, std = float(np.mean(arm)), float(np.std(arm))
        assert paper[k] == pytest.approx(mean + 1.5 * std, abs=1e-6)
        assert ucb1[k] == pytest.approx(mean + 2.0 * math.sqrt(2 * math.log(total) / len(arm)), abs=1e-6)
        share = sum(reward >= tau for reward in arm) / len(arm)
        assert hard[k] == pytest.approx(share) if share else hard[k] < 0
        if std > 1e-3:
            assert normal[k] == pytest.approx(1 - NormalDist(mean, std).cdf(tau), abs=1e-5)


def test_arms_below_the_threshold_rank_by_their_largest_reward() -> None:
    arms = observed([[9.0] * 4, [-5.0, 1.0, 0.0], [-5.0, 2.0, 0.0], [-9.0]])
    assert np.argsort(-ThreshHard().indices(arms)).tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_exhausted_arms_are_last_and_unobserved_ones_first(strategy) -> None:
    arms = observed([[5.0, 5.0], [-3.0, -2.0], []], sizes=[2, 9, 9])
    assert strategy.indices(arms).tolist()[0] == -math.inf
    assert strategy.indices(arms).tolist()[2] == math.inf
    draws = strategy.draws(arms, np.array([0, 7, 2]), 5)
    assert draws.arms.tolist() == [2, 1]
    assert draws.counts.tolist() == [2, 3]


@settings(deadline=None)
@given(
    lists=st.lists(st.lists(rewards, max_size=6), min_size=1, max_size=6),
    size=st.integers(1, 60),
    strategy=st.sampled_from(STRATEGIES),
)
def test_a_round_is_filled_within_capacity(lists: list[list[float]], size: int, strategy) -> None:
    arms = observed(lists)
    draws = strategy.draws(arms, arms.remaining_K, size)
    assert draws.counts.sum() == min(size, arms.remaining_K.sum())
    assert (draws.counts > 0).all()
    assert (draws.counts <= arms.remaining_K[draws.arms]).all()
    assert len(set(draws.arms.tolist())) == len(draws.arms)


@settings(deadline=None)
@given(lists=arm_lists, strategy=st.sampled_from(STRATEGIES))
def test_a_single_draw_goes_to_the_largest_index(lists: list[list[float]], strategy) -> None:
    arms = observed(lists)
    assert strategy.draws(arms, arms.remaining_K, 1).arms.tolist() == [int(np.argmax(strategy.indices(arms)))]


@settings(deadline=None)
@given(lists=arm_lists, size=st.integers(1, 30), scale=st.sampled_from((0.0, 0.5, 2.0)))
def test_ucb1_shares_a_round_as_draw_by_draw(lists: list[list[float]], size: int, scale: float) -> None:
    arms = observed(lists)
    draws = Ucb1(scale).draws(arms, arms.remaining_K, size)
    counts = np.zeros(len(lists), dtype=int)
    bonus = scale * math.sqrt(2 * math.log(sum(map(len, lists))))
    for _ in range(int(min(size, arms.remaining_K.sum()))):
        index_K = arms.mean_K + bonus / np.sqrt(arms.count_K + counts)
        counts[int(np.argmax(np.where(counts < arms.remaining_K, index_K, -np.inf)))] += 1
    assert dict(zip(draws.arms.tolist(), draws.counts.tolist(), strict=True)) == {
        k: n for k, n in enumerate(counts.tolist()) if n
    }


@settings(deadline=None)
@given(
    sequences=st.lists(st.lists(st.integers(-5, 5), max_size=8), min_size=1, max_size=6),
    size=st.integers(0, 30),
    error=st.integers(-1, 1),
)
def test_levels_take_the_largest_terms(sequences: list[list[int]], size: int, error: int) -> None:
    falling = [sorted(sequence, reverse=True) for sequence in sequences]
    terms = sorted((-value, k, j) for k, sequence in enumerate(falling) for j, value in enumerate(sequence))[:size]
    expected = np.bincount([k for _, k, _ in terms], minlength=len(falling))

    def above(level: float):
        return np.array([sum(value > level for value in sequence) + error for sequence in falling], dtype=np.float64)

    capacity_K = np.array([len(sequence) for sequence in falling])
    counts = fill_to_level(above, lambda k, j: float(falling[k][j]), -5.0, 5.0, capacity_K, size)
    np.testing.assert_array_equal(counts, expected)


def test_a_lucky_leader_does_not_swallow_a_round() -> None:
    """Two rewards put arm 0 ahead of a well-known arm: the round goes to both, one draw alone to arm 0."""
    rng = np.random.default_rng(0)
    known = [(0.5 + 0.02 * k + 0.3 * rng.normal(size=40)).tolist() for k in range(5)]
    arms = observed([[1.1, 0.9], *known], sizes=[80] * 6)
    strategy = UcbBeta(1.0)
    assert strategy.draws(arms, arms.remaining_K, 1).arms.tolist() == [0]
    assert len(strategy.draws(arms, arms.remaining_K, 40).arms) > 1
    assert UcbBeta(1.0, official=True).draws(arms, arms.remaining_K, 40).arms.tolist() == [
        int(np.argmax(UcbBeta(1.0, official=True).indices(arms)))
    ]


def test_variance_components_are_those_that_made_the_rewards() -> None:
    rng = np.random.default_rng(1)
    means = 0.5 * rng.normal(size=400)
    found = components(observed([(mean + rng.normal(size=20)).tolist() for mean in means]))
    assert found.within == pytest.approx(1.0, rel=0.05)
    assert found.between == pytest.approx(0.25, rel=0.2)
    assert found.between_share == pytest.approx(0.2, abs=0.04)
    assert np.mean((found.mean_K - means) ** 2) < 0.25 / (0.25 + 1 / 20) / 20 * 1.2
    assert np.mean(np.abs(found.mean_K - means) < 1.645 * found.std_K) == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("lists", [[[1.0]], [[1.0], [1.0]], [[1.0, 1.0], [2.0, 2.0]], [[1.0], []]])
def test_components_of_too_little_data_are_finite(lists: list[list[float]]) -> None:
    found = components(observed(lists))
    assert np.isfinite([found.within, found.between, found.between_share, *found.mean_K, *found.std_K]).all()


def test_cold_starts() -> None:
    size_K = np.array([0, 1, 2, 39, 40, 1000])
    assert cold_start_K(size_K, config.Search()).tolist() == [0, 1, 2, 2, 2, 20]
    assert cold_start_K(size_K, config.Search(cold_start=0.5, cold_start_min=10)).tolist() == [0, 1, 2, 20, 20, 500]
    assert cold_start_K(size_K, config.Search(cold_start=0.05, compat="official")).tolist() == [0, 1, 1, 1, 2, 50]


def test_rounds_grow_with_what_is_known() -> None:
    assert round_size(1000, 10**6, config.Rounds(first=8, growth=1.25)) == 250
    assert round_size(10, 10**6, config.Rounds(first=8, growth=1.25)) == 8
    assert round_size(10**6, 10**6, config.Rounds(first=8, growth=1.0)) == 8
    assert round_size(1000, 3, config.Rounds()) == 3


def test_the_configured_strategy_is_built() -> None:
    assert build_allocator(config.Search(allocator=config.UcbBeta(beta=2.0))) == UcbBeta(2.0)
    assert build_allocator(config.Search(compat="official")) == UcbBeta(1.0, official=True)
    assert build_allocator(config.Search(allocator=config.Uniform())) is None
    hard = config.Search(allocator=config.ThreshHard(), budget=0.2)
    assert top_share(hard, 0.05) == pytest.approx(0.25)
    assert top_share(config.Search(allocator=config.ThreshNormal(top=0.1)), 0.05) == 0.1
    assert top_share(config.Search(), 0.05) is None
