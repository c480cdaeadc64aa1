"""The prediction against oracles: closed forms, numpy and scikit-learn; and what the allocator does with it."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import BayesianRidge

from clusterucb import config
from clusterucb.compare.simulate import drive, simulate
from clusterucb.search import Search, UcbBeta
from clusterucb.search.predictive import Columns, Factor, Knowledge, Moments, WorkingSet, fit
from clusterucb.search.predictive.chooser import PredictiveChooser
from clusterucb.search.predictive.gain import best, log_expected_gain, top_threshold
from clusterucb.search.predictive.known import indicators, standardised
from clusterucb.search.predictive.principal import principal_components, unit
from clusterucb.search.predictive.skill import Skill
from clusterucb.search.rounds import cold_start_K
from clusterucb.types import Observations

Real = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]
PREDICTIVE = config.Search(allocator=config.Predictive(), budget=0.2)


def problem(
    n: int, columns: int, clusters: int, noise: float, seed: int
) -> tuple[npt.NDArray[np.float32], Labels, Real]:
    """Columns, labels, and rewards that both explain, far from 0 and small."""
    rng = np.random.default_rng(seed)
    phi_NC = rng.standard_normal((n, columns)).astype(np.float32)
    labels_N = rng.integers(0, clusters, n).astype(np.int32)
    signal_N = phi_NC @ rng.standard_normal(columns) / max(columns, 1) ** 0.5 + rng.standard_normal(clusters)[labels_N]
    return phi_NC, labels_N, 3.0 + 0.01 * (signal_N + noise * rng.standard_normal(n))


def moments_of(phi_NC: npt.NDArray[np.float32], labels_N: Labels, rewards_N: Real, clusters: int, cuts: int) -> Moments:
    moments = Moments.empty(phi_NC.shape[1], clusters)
    for part in np.array_split(np.arange(len(phi_NC)), cuts):
        moments = moments.add(phi_NC[part], labels_N[part], rewards_N[part])
    return moments


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(0, 12), clusters=st.integers(1, 9), cuts=st.integers(1, 7))
def test_sums_by_blocks_give_the_posterior_of_one_batch_in_closed_form(seed, columns, clusters, cuts) -> None:
    """At the fitted precisions: the normal equations of columns, intercept and indicators, solved outright."""
    n = 60
    phi_NC, labels_N, rewards_N = problem(n, columns, clusters, 0.5, seed)
    groups_C = np.arange(columns) % 2 if columns > 1 else np.zeros(columns, dtype=np.int64)
    moments = moments_of(phi_NC, labels_N, rewards_N, clusters, cuts)
    found = fit(moments, groups_C)
    scale = moments.deviation
    design = np.concatenate((phi_NC, np.ones((n, 1)), np.eye(clusters)[labels_N]), axis=1).astype(np.float64)
    prior = np.concatenate((found.precision_G[:-1][groups_C], [1e-6], np.full(clusters, found.precision_G[-1])))
    covariance = np.linalg.inv(np.diag(prior) + (scale / found.noise) ** 2 * design.T @ design)
    weights = covariance @ design.T @ (rewards_N - rewards_N.mean()) / found.noise**2 * scale**2
    mean_N, deviation_N = found.predict(phi_NC, labels_N)
    np.testing.assert_allclose(mean_N, rewards_N.mean() + design @ weights, rtol=0, atol=2e-4 * scale)
    expected = np.sqrt(found.noise**2 + scale**2 * np.einsum("nd,de,ne->n", design, covariance, design))
    np.testing.assert_allclose(deviation_N, expected, rtol=2e-3)


def test_one_group_agrees_with_scikit_learn() -> None:
    phi_NC, _, _ = problem(300, 20, 1, 0.0, 0)
    rng = np.random.default_rng(1)
    rewards_N = phi_NC @ rng.standard_normal(20) + 2.0 * rng.standard_normal(300)
    moments = moments_of(phi_NC, np.zeros(300, dtype=np.int32), rewards_N, 1, 4)
    ours = fit(moments, np.zeros(20, dtype=np.int64))
    theirs = BayesianRidge(tol=1e-6).fit(phi_NC, rewards_N)
    assert ours.noise == pytest.approx(theirs.alpha_**-0.5, rel=0.02)
    np.testing.assert_allclose(ours.weight_C[:-1], theirs.coef_, atol=0.03)
    fresh = rng.standard_normal((50, 20)).astype(np.float32)
    mean, deviation = ours.predict(fresh, np.zeros(50, dtype=np.int32))
    their_mean, their_deviation = theirs.predict(fresh, return_std=True)
    np.testing.assert_allclose(mean, their_mean, atol=0.1)
    np.testing.assert_allclose(deviation, their_deviation, rtol=0.03)


def test_intervals_cover_what_they_say() -> None:
    inside: list[float] = []
    for seed in range(12):
        phi_NC, labels_N, rewards_N = problem(500, 30, 8, 0.7, seed)
        model = fit(moments_of(phi_NC[:100], labels_N[:100], rewards_N[:100], 8, 1), np.zeros(30, dtype=np.int64))
        mean, deviation = model.predict(phi_NC[100:], labels_N[100:])
        inside.append(float((np.abs(rewards_N[100:] - mean) <= 1.645 * deviation).mean()))
    assert 0.85 <= np.mean(inside) <= 0.95


def test_a_group_of_noise_is_shrunk_away() -> None:
    phi_NC, labels_N, _ = problem(400, 40, 4, 0.0, 3)
    rng = np.random.default_rng(4)
    rewards_N = phi_NC[:, :10] @ rng.standard_normal(10) + 0.5 * rng.standard_normal(400)
    model = fit(moments_of(phi_NC, labels_N, rewards_N, 4, 1), np.repeat([0, 1], [10, 30]))
    assert model.precision_G[1] > 30 * model.precision_G[0]


def test_equal_rewards_and_a_single_one_are_predicted() -> None:
    for rewards in (np.full(5, 0.25), np.array([0.25])):
        phi = np.ones((len(rewards), 2), dtype=np.float32)
        model = fit(moments_of(phi, np.zeros(len(rewards), dtype=np.int32), rewards, 3, 1), np.zeros(2, dtype=np.int64))
        mean, deviation = model.predict(phi, np.zeros(len(rewards), dtype=np.int32))
        np.testing.assert_allclose(mean, 0.25, atol=1e-3)
        assert (deviation > 0).all()


@pytest.mark.parametrize("shape", [(300, 40), (90, 300)])
def test_components_span_what_numpy_finds(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    matrix_NF = (rng.standard_normal(shape) * 0.8 ** np.arange(shape[1]) + 0.3).astype(np.float16)
    rows = np.flatnonzero(np.arange(shape[0]) % 5 > 0)
    found = principal_components(matrix_NF, rows, 8, np.random.default_rng(1))
    x = unit(matrix_NF[rows]).astype(np.float64)
    _, values, directions = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.variance_C, values[:8] ** 2 / len(rows), rtol=1e-3)
    np.testing.assert_allclose(np.abs(np.diag(directions[:8] @ found.basis_FC)), 1.0, atol=2e-3)
    np.testing.assert_allclose(found.project(matrix_NF[rows]), (x - x.mean(axis=0)) @ found.basis_FC, atol=1e-5)


def test_directions_without_variance_are_left_out() -> None:
    matrix_NF = np.outer(np.linspace(1, 2, 30), np.ones(6))
    assert principal_components(matrix_NF, np.arange(30), 4, np.random.default_rng(0)).basis_FC.shape[1] <= 4
    flat = WorkingSet.of(Knowledge((np.zeros((30, 6)),)), np.zeros(30, np.int32), 4, np.random.default_rng(0))
    assert np.isfinite(flat.columns_NC).all()


def test_a_row_of_zeros_is_not_known_and_counts_as_average() -> None:
    matrix_NF = np.random.default_rng(1).standard_normal((50, 6)).astype(np.float16) + 3
    matrix_NF[7] = 0
    found = principal_components(matrix_NF, np.arange(50), 3, np.random.default_rng(0))
    coordinates_NC = found.project(matrix_NF)
    assert not coordinates_NC[7].any()
    assert np.delete(coordinates_NC, 7, axis=0).any(axis=1).all()


def test_groups_vary_by_one_and_unknown_entries_are_marked() -> None:
    rng = np.random.default_rng(0)
    labels_N = np.where(np.arange(200) % 7 == 0, -1, np.arange(200) % 3).astype(np.int32)
    usable = np.flatnonzero(labels_N >= 0)
    values_NC = 5.0 + 0.01 * rng.standard_normal((200, 2))
    values_NC[10:40, 0] = np.nan
    known = Knowledge(
        (rng.standard_normal((200, 30)),), (Columns("old", values_NC),), (Factor("f", np.arange(200) % 4),)
    )
    working = WorkingSet.of(known, labels_N, 6, rng)
    assert working.groups_C.tolist() == [0] * 6 + [1] * 3 + [2] * 4
    assert (working.columns_NC[labels_N < 0] == 0).all()
    for group in range(3):
        variance = working.rows(usable)[:, working.groups_C == group].astype(np.float64).var(axis=0)
        assert variance.mean() == pytest.approx(1.0, rel=0.01)
    made = standardised(Columns("old", values_NC), usable)
    assert (made[12, 0], made[12, 2] > 0, made[50, 2] < 0) == (0.0, True, True)
    assert standardised(Columns("flat", np.ones((200, 2))), usable).shape == (200, 0)
    assert indicators(Factor("none", np.full(200, -1)), usable).shape == (200, 0)


def test_expected_gain_against_simulation_and_far_in_the_tail() -> None:
    rng = np.random.default_rng(0)
    mean, deviation = np.array([0.0, 1.0, -1.0, 0.5]), np.array([1.0, 0.3, 2.0, 0.1])
    drawn = mean + deviation * rng.standard_normal((400_000, 4))
    np.testing.assert_allclose(
        np.exp(log_expected_gain(mean, deviation, 0.4)), np.maximum(drawn - 0.4, 0).mean(axis=0), rtol=0.02
    )
    far = log_expected_gain(np.linspace(-500.0, 0.0, 5001), np.ones(5001), 1.0)
    assert np.isfinite(far).all()
    assert (np.diff(far) > 0).all(), "the series joins the definition, and the order never breaks"


def test_the_best_are_the_largest_and_ties_go_to_the_lowest() -> None:
    values = np.array([2.0, 5.0, -np.inf, 2.0, 2.0, 7.0])
    assert best(values, 3).tolist() == [0, 1, 5]
    assert best(values, 9).tolist() == [0, 1, 3, 4, 5]
    assert top_threshold(values[[0, 1, 5]], 2) == 5.0
    assert top_threshold(values[[0, 1, 5]], 9) == 2.0


@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12), budget=st.floats(0.01, 1.0))
def test_the_start_is_spread_by_size(sizes: list[int], budget: float) -> None:
    size_K = np.array(sizes)
    cold_K = cold_start_K(size_K, PREDICTIVE.model_copy(update={"budget": budget}))
    limit = int(budget * sum(sizes) + 1e-9)
    assert cold_K.sum() == min(limit, max(8, int(np.ceil(0.1 * limit - 1e-9))))
    assert (cold_K <= size_K).all()
    assert (np.abs(cold_K - size_K * cold_K.sum() / max(sum(sizes), 1)) < 1 + 1e-9).all()


def linear_pool(seed: int, signal: float) -> tuple[npt.NDArray[np.float16], Labels, Real]:
    """Features of 800 samples, clusters that know a part of the reward, and the reward."""
    rng = np.random.default_rng(seed)
    matrix_NF = rng.standard_normal((800, 32)).astype(np.float16)
    labels_N = rng.integers(0, 20, 800).astype(np.int32)
    linear_N = matrix_NF.astype(np.float64) @ rng.standard_normal(32) / 32**0.5
    return matrix_NF, labels_N, signal * linear_N + rng.standard_normal(20)[labels_N] + 0.3 * rng.standard_normal(800)


def recall(allocator: config.Allocator, signal: float, seeds: int) -> float:
    found: list[float] = []
    for seed in range(seeds):
        matrix_NF, labels_N, rewards_N = linear_pool(seed, signal)
        search = config.Search(allocator=allocator, budget=0.2)
        run = simulate(rewards_N, labels_N, search, 0.05, np.random.default_rng(seed), Knowledge((matrix_NF,)))
        found.append(run.recall)
    return float(np.mean(found))


def test_prediction_finds_what_clusters_cannot() -> None:
    assert recall(config.Predictive(), 1.5, 4) > recall(config.UcbBeta(), 1.5, 4) + 0.2


def test_features_that_know_nothing_cost_little() -> None:
    assert recall(config.Predictive(), 0.0, 8) > recall(config.UcbBeta(), 0.0, 8) - 0.1


def test_skill_is_lost_by_noise_and_regained_by_knowledge() -> None:
    rng = np.random.default_rng(0)
    clusters, truth = np.zeros(50), rng.standard_normal((12, 50))
    assert not Skill().lost
    wrong = Skill()
    for rewards in truth:
        wrong = wrong.seen(-0.1 * rewards, clusters, rewards)
    assert wrong.lost
    for rewards in truth:
        wrong = wrong.seen(0.3 * rewards + 0.3 * rng.standard_normal(50), clusters, rewards)
    assert not wrong.lost


def test_without_skill_the_rounds_are_the_bandits() -> None:
    """Once predictions have failed, the next round empties the arms that the fall-back would empty."""
    matrix_NF, labels_N, rewards_N = linear_pool(2, 0.0)
    search = Search(labels_N, PREDICTIVE, 0.05, np.random.default_rng(3), Knowledge((matrix_NF,)))
    chooser = search._chooser
    assert isinstance(chooser, PredictiveChooser)
    for _ in range(3):
        planned = search.ask()
        assert planned is not None
        search.tell(planned.index, Observations(planned.samples_B, rewards_N[planned.samples_B]))
    chooser.skills = (Skill(-1.0, 99),)
    expected = UcbBeta(1.0).draws(search.arms, search.arms.capacity_K(np.full(20, 2)), 8)
    planned = search.ask()
    assert planned is not None
    got = np.bincount(planned.arms_B, minlength=20)
    assert len(planned.samples_B) == expected.counts.sum() == 8
    assert got[expected.arms].tolist() == expected.counts.tolist()


@pytest.mark.parametrize("lag", [0, 1])
def test_replay_in_any_order_of_completion_names_the_same_samples(lag: int) -> None:
    matrix_NF, labels_N, rewards_N = linear_pool(1, 1.0)
    rewards_N[::9] = np.nan
    search = PREDICTIVE.model_copy(update={"rounds": config.Rounds(lag=lag)})
    known = Knowledge((matrix_NF,), (Columns("hint", np.nan_to_num(rewards_N)[:, None]),))
    whole = drive(Search(labels_N, search, 0.05, np.random.default_rng(3), known), rewards_N)
    other = Search(labels_N, search, 0.05, np.random.default_rng(3), known)
    drawn: list[npt.NDArray[np.int64]] = []
    while not other.done:
        out = [planned for planned in iter(other.ask, None)]
        other.give_back(out[-1].index)
        again = other.ask()
        assert again is not None
        np.testing.assert_array_equal(again.samples_B, out[-1].samples_B)
        for planned in out:
            arrived = np.random.default_rng(planned.index).permutation(planned.samples_B)
            other.tell(planned.index, Observations(arrived, rewards_N[arrived]))
            drawn.append(planned.samples_B[np.isfinite(rewards_N[planned.samples_B])])
    np.testing.assert_array_equal(np.concatenate(drawn), whole)
    assert len(whole) == 160
    assert len(np.unique(whole)) == 160


@pytest.mark.material
def test_prediction_beats_the_bandit_on_recorded_tables(material) -> None:
    from clusterucb.compare.recorded import RecordedTable
    from clusterucb.features.clustering import fit as cluster

    before, now = (RecordedTable(material / "traces" / f"smollm2_135m_ck{i}.npz") for i in (0, 1))
    found: dict[str, list[float]] = {"ucb_beta": [], "predictive": []}
    for target in ("gsm8k", "mbpp", "bbh"):
        features, rewards_N = now.described("earlier+influence+match", target, before), now.reference(target).rewards_N
        labels_N = cluster(features.matrix_NF, 40, config.Clusters(), np.random.default_rng(0)).labels_N
        for allocator in (config.UcbBeta(), config.Predictive()):
            search = config.Search(allocator=allocator, budget=0.2)
            run = simulate(rewards_N, labels_N, search, 0.05, np.random.default_rng(0), features.known)
            found[allocator.kind].append(run.recall)
    assert np.mean(found["predictive"]) > np.mean(found["ucb_beta"]) + 0.15
