"""A search that begins with what the last period found: it trusts the past as far as the arms have not moved."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clusterucb.compare.simulate import simulate
from clusterucb.config import Predictive, Rounds, Search, ThreshHard, WarmStart
from clusterucb.search.arms import ArmStatistics
from clusterucb.search.prior import Prior

ARMS, SIZE = 30, 40
LABELS = np.repeat(np.arange(ARMS, dtype=np.int32), SIZE)


def rewards(seed: int, drift: float) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of a period and of the next: means of arms that move by `drift`, on another scale."""
    rng = np.random.default_rng(seed)
    before = rng.normal(size=ARMS)
    after = np.sqrt(1 - drift**2) * before + drift * rng.normal(size=ARMS)
    noise = rng.normal(size=(2, ARMS * SIZE))
    return before[LABELS] + noise[0], 0.1 * (after[LABELS] + noise[1]) - 5.0


def found(drift: float, warm: bool, start: float = 0.02) -> float:
    recalls = []
    for seed in range(6):
        old_N, new_N = rewards(seed, drift)
        known_N = np.where(np.random.default_rng(seed).random(len(old_N)) < 0.3, old_N, np.nan)
        search = Search(
            budget=0.12, cold_start=start, cold_start_min=2, rounds=Rounds(),
            warm_start=WarmStart(path="earlier") if warm else None,
        )  # fmt: skip
        recalls.append(
            simulate(new_N, LABELS, search, 0.05, np.random.default_rng(seed), None, (1.0,), known_N[:, None]).recall
        )
    return float(np.mean(recalls))


def test_a_past_that_holds_helps_and_one_that_does_not_costs_little():
    assert found(0.0, warm=True) > found(0.0, warm=False) + 0.05
    assert found(0.3, warm=True) > found(0.3, warm=False)
    assert found(1.0, warm=True) > found(1.0, warm=False) - 0.08


@given(st.integers(0, 50), st.floats(0.05, 1))
def test_joined_statistics_leave_room_and_flight_as_they_are(seed: int, discount: float):
    rng = np.random.default_rng(seed)
    old_N = np.where(rng.random(len(LABELS)) < 0.5, rewards(seed, 0.5)[0], np.nan)
    arms = ArmStatistics.of(np.bincount(LABELS))
    drawn = rng.integers(0, 6, ARMS)
    arms = arms.plan(drawn)
    seen = np.repeat(np.arange(ARMS, dtype=np.int32), np.maximum(drawn - 1, 0))
    arms = arms.observe(seen, rng.normal(size=len(seen)), np.empty(0, np.int32))
    joined = Prior.of(LABELS, old_N, discount).joined(arms)
    assert np.array_equal(joined.remaining_K, arms.remaining_K)
    assert np.array_equal(joined.in_flight_K, arms.in_flight_K)
    assert (joined.count_K >= arms.count_K).all()
    assert (joined.squares_K >= arms.squares_K - 1e-9).all()


def test_a_past_that_falls_where_the_present_rises_is_left_out():
    old_N, _ = rewards(0, 0.0)
    arms = ArmStatistics.of(np.bincount(LABELS)).plan(np.full(ARMS, 5))
    seen = np.repeat(np.arange(ARMS, dtype=np.int32), 5)
    opposite = -np.asarray([old_N[arm == LABELS].mean() for arm in seen])
    arms = arms.observe(seen, opposite, np.empty(0, np.int32))
    assert Prior.of(LABELS, old_N, 0.5).joined(arms) is arms


@pytest.mark.parametrize("allocator", [ThreshHard(), Predictive()])
def test_allocators_that_look_at_no_means_refuse_a_warm_start(allocator: object):
    with pytest.raises(ValidationError, match=r"search\.warm_start brings means of clusters"):
        Search(allocator=allocator, warm_start=WarmStart(path="earlier"))
