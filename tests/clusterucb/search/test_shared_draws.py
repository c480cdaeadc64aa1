"""Several targets share the draws of one search: nobody is starved, and one alone notices nothing."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterucb import config
from clusterucb.compare.simulate import drive
from clusterucb.search import Search
from clusterucb.search.predictive import Columns, Knowledge
from clusterucb.search.shared_draws import shares
from clusterucb.types import Observations

ALLOCATORS = (config.UcbBeta(), config.Ucb1(), config.ThreshHard(), config.ThreshNormal(), config.Predictive())
Real = npt.NDArray[np.float64]


def problem(
    seed: int, samples: int = 400, targets: int = 3, columns: float = 1.0
) -> tuple[npt.NDArray[np.int32], Real, Real]:
    """Labels, columns, and rewards on very different scales whose best samples lie in different places."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, 12, samples).astype(np.int32)
    columns_NC = rng.standard_normal((samples, 6))
    signal_NM = (
        columns * columns_NC @ rng.standard_normal((6, targets)) + 2.0 * rng.normal(size=(12, targets))[labels_N]
    )
    return labels_N, columns_NC, (signal_NM + 0.5 * rng.standard_normal(signal_NM.shape)) * 10.0 ** np.arange(targets)


def search_of(allocator, labels_N, columns_NC, weights=(1.0, 1.0, 1.0), budget: float = 0.4) -> Search:
    rounds = config.Rounds(first=6)
    settings_ = config.Search(allocator=allocator, budget=budget, cold_start_min=1, rounds=rounds)
    known = Knowledge((), (Columns("known", columns_NC),))
    return Search(labels_N, settings_, 0.05, np.random.default_rng(3), known, weights)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(0, 500), weights=st.lists(st.floats(0.01, 100.0), min_size=1, max_size=6))
def test_shares_add_up_and_follow_the_weights(size: int, weights: list[float]) -> None:
    given_ = shares(size, weights)
    assert sum(given_) == size
    assert np.abs(np.array(given_) - size * np.array(weights) / sum(weights)).max() < 1 + 1e-6


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=lambda each: each.kind)
def test_a_draw_is_made_once_and_the_budget_is_spent(allocator) -> None:
    labels_N, columns_NC, rewards_NM = problem(0)
    rewards_NM[::7] = np.nan  # samples that fail
    search = search_of(allocator, labels_N, columns_NC)
    drawn = drive(search, rewards_NM)
    assert len(np.unique(drawn)) == len(drawn) == search.ledger.observed == search.ledger.limit
    assert np.isfinite(rewards_NM[drawn]).all()


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=lambda each: each.kind)
def test_equal_targets_decide_as_one_of_them_does(allocator) -> None:
    """With the same rewards twice the draws serve one purpose: as many of its best are found."""
    labels_N, columns_NC, rewards_NM = problem(1, targets=1)
    alone = drive(search_of(allocator, labels_N, columns_NC, (1.0,)), rewards_NM[:, 0])
    twice = drive(search_of(allocator, labels_N, columns_NC, (1.0, 1.0)), np.repeat(rewards_NM, 2, axis=1))
    top = np.argsort(-rewards_NM[:, 0])[:20]
    assert np.isin(top, twice).sum() >= np.isin(top, alone).sum() - 2


@pytest.mark.parametrize(("allocator", "columns"), [(config.UcbBeta(), 0.2), (config.Predictive(), 1.0)])
def test_every_target_is_served_whatever_its_scale_and_order(allocator, columns: float) -> None:
    found = []
    for order in ([0, 1, 2], [2, 1, 0]):
        labels_N, columns_NC, rewards_NM = problem(2, columns=columns)
        drawn = drive(search_of(allocator, labels_N, columns_NC), rewards_NM[:, order])
        tops = [np.argsort(-rewards_NM[:, m])[:20] for m in range(3)]
        found.append([np.isin(top, drawn).mean() for top in tops])
    assert np.min(found) > 0.45  # uniform draws find 0.4
    assert np.mean(found) > 0.6


def test_a_heavy_target_gets_more() -> None:
    labels_N, columns_NC, rewards_NM = problem(4, targets=2)
    recalls = []
    for weights in ((20.0, 1.0), (1.0, 20.0)):
        drawn = drive(search_of(config.Predictive(), labels_N, columns_NC, weights, budget=0.15), rewards_NM)
        recalls.append([np.isin(np.argsort(-rewards_NM[:, m])[:20], drawn).mean() for m in range(2)])
    assert recalls[0][0] > recalls[1][0]
    assert recalls[1][1] > recalls[0][1]


@pytest.mark.parametrize("allocator", [config.UcbBeta(), config.Predictive()], ids=lambda each: each.kind)
def test_a_search_told_again_continues_identically(allocator) -> None:
    labels_N, columns_NC, rewards_NM = problem(5)
    first = search_of(allocator, labels_N, columns_NC)
    whole = drive(first, rewards_NM)
    again, drawn = search_of(allocator, labels_N, columns_NC), []
    rng = np.random.default_rng(0)
    while not again.done:
        planned = again.ask()
        assert planned is not None
        arrived = rng.permutation(planned.samples_B)  # in any order inside a round
        again.tell(planned.index, Observations(arrived, rewards_NM[arrived]))
        drawn.append(planned.samples_B)
    np.testing.assert_array_equal(whole, np.concatenate(drawn))
    np.testing.assert_array_equal(first.predictions(), again.predictions()) if allocator.kind == "predictive" else None
