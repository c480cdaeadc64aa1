"""Spherical k-means keeps its invariants on any input, and finds what a reference finds."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from clusterucb import config
from clusterucb.errors import ConfigError, DataError
from clusterucb.features import clustering
from clusterucb.types import Clusters

SETTINGS = config.Clusters(center=False)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blobs(rng: np.random.Generator, num_samples: int, groups: int, dim: int, spread: float) -> np.ndarray:
    centres_GF = rng.normal(size=(groups, dim))
    centres_GF /= np.linalg.norm(centres_GF, axis=1, keepdims=True)
    x_NF = centres_GF[rng.integers(groups, size=num_samples)] + spread * rng.normal(size=(num_samples, dim))
    return (x_NF * rng.uniform(0.5, 2.0, size=(num_samples, 1))).astype(np.float32)


def unit(x_NF: np.ndarray) -> np.ndarray:
    x_NF = x_NF.astype(np.float64)
    return x_NF / np.maximum(np.linalg.norm(x_NF, axis=1, keepdims=True), 1e-30)


def mean_cosine(x_NF: np.ndarray, found: Clusters) -> float:
    return float((unit(x_NF) * found.centroids_KF[found.labels_N]).sum(axis=1).mean())


def check_invariants(x_NF: np.ndarray, k: int, found: Clusters) -> None:
    assert found.labels_N.dtype == np.int32
    assert found.centroids_KF.dtype == np.float32
    assert found.centroids_KF.shape == (k, x_NF.shape[1])
    assert np.array_equal(np.unique(found.labels_N), np.arange(k)), "a cluster is empty"
    np.testing.assert_allclose(np.linalg.norm(found.centroids_KF, axis=1), 1.0, atol=1e-5)


@given(
    num_samples=st.integers(1, 40),
    distinct=st.integers(1, 40),
    zeros=st.integers(0, 5),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=120, deadline=None)
def test_no_cluster_is_ever_empty(num_samples: int, distinct: int, zeros: int, share: float, seed: int):
    rng = np.random.default_rng(seed)
    x_NF = rng.normal(size=(distinct, 3))[rng.integers(distinct, size=num_samples)].astype(np.float16)
    x_NF[rng.integers(num_samples, size=zeros)] = 0
    k = 1 + round(share * (num_samples - 1))
    found = clustering.fit(x_NF, k, SETTINGS, rng)
    check_invariants(x_NF, k, found)


@pytest.mark.parametrize("k", [1, 7, 50])
def test_as_many_clusters_as_points_even_when_all_are_equal_or_zero(k: int):
    for x_NF in (np.ones((50, 4), np.float32), np.zeros((50, 4), np.float32)):
        check_invariants(x_NF, k, clustering.fit(x_NF, k, SETTINGS, np.random.default_rng(0)))
    x_NF = np.random.default_rng(1).normal(size=(k, 4))
    found = clustering.fit(x_NF, k, SETTINGS, np.random.default_rng(0))
    assert mean_cosine(x_NF, found) == pytest.approx(1.0, abs=1e-5)


@given(seed=st.integers(0, 2**32), k=st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_a_label_names_the_nearest_centroid(seed: int, k: int):
    rng = np.random.default_rng(seed)
    x_NF = blobs(rng, 200, 6, 5, 0.4)
    found = clustering.fit(x_NF, k, SETTINGS, rng)
    cosines_NK = unit(x_NF) @ found.centroids_KF.T
    own_N = cosines_NK[np.arange(len(x_NF)), found.labels_N]
    assert np.all(own_N >= cosines_NK.max(axis=1) - 2 * clustering.FOLLOW_MARGIN)


@pytest.mark.parametrize(("groups", "k", "spread"), [(12, 12, 0.1), (30, 20, 0.3), (1, 25, 1.0)])
def test_objective_is_as_good_as_the_reference(groups: int, k: int, spread: float):
    x_NF = blobs(np.random.default_rng(3), 3000, groups, 24, spread)
    reference = KMeans(k, n_init=1, random_state=0).fit(unit(x_NF))
    centres_KF = unit(reference.cluster_centers_)
    expected = (unit(x_NF) @ centres_KF.T).max(axis=1).mean()
    found = clustering.fit(x_NF, k, SETTINGS, np.random.default_rng(0))
    assert mean_cosine(x_NF, found) >= expected - 0.02 * abs(expected)


@given(seed=st.integers(0, 2**32), zeros=st.integers(0, 3), k=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_centring_takes_the_mean_direction_off_rows_that_have_one(seed: int, zeros: int, k: int):
    x_NF = np.random.default_rng(seed).normal(1.0, 1.0, size=(60, 8))
    x_NF[:zeros] = 0.0
    by_hand_NF = unit(x_NF) - unit(x_NF).mean(axis=0)
    by_hand_NF[:zeros] = 0.0
    found = clustering.fit(x_NF, k, config.Clusters(), np.random.default_rng(0))
    expected = clustering.fit(by_hand_NF, k, SETTINGS, np.random.default_rng(0))
    assert mean_cosine(by_hand_NF, found) == pytest.approx(mean_cosine(by_hand_NF, expected), abs=1e-3)
    assert len(np.unique(found.labels_N)) == k


@pytest.mark.parametrize("k", [1, 7, 50])
def test_centring_survives_rows_that_are_all_equal(k: int):
    for x_NF in (np.ones((50, 4), np.float32), np.zeros((50, 4), np.float32)):
        found = clustering.fit(x_NF, k, config.Clusters(), np.random.default_rng(0))
        assert len(np.unique(found.labels_N)) == k
        assert np.isfinite(found.centroids_KF).all()


def test_a_common_offset_hides_groups_unless_it_is_taken_off():
    rng = np.random.default_rng(5)
    labels_N = np.repeat(np.arange(4), 50)
    x_NF = rng.normal(scale=0.05, size=(200, 16)) + 0.5 * np.eye(16)[labels_N] + 10.0 * np.eye(16)[15]
    found = clustering.fit(x_NF, 4, config.Clusters(), rng)
    assert all(len(np.unique(found.labels_N[labels_N == group])) == 1 for group in range(4))


def test_separate_groups_are_found():
    rng = np.random.default_rng(5)
    group_N = rng.integers(4, size=600)
    x_NF = np.eye(4, 16)[group_N] + 0.02 * rng.normal(size=(600, 16))
    found = clustering.fit(x_NF, 4, SETTINGS, rng)
    assert len(set(zip(group_N.tolist(), found.labels_N.tolist(), strict=True))) == 4


def test_same_generator_state_gives_the_same_bytes():
    x_NF = blobs(np.random.default_rng(7), 1500, 10, 12, 0.5).astype(np.float16)
    few = SETTINGS.model_copy(update={"train_sample": 20, "init_sample": 300})
    first, second = (clustering.fit(x_NF, 17, few, np.random.default_rng(11)) for _ in range(2))
    assert first.labels_N.tobytes() == second.labels_N.tobytes()
    assert first.centroids_KF.tobytes() == second.centroids_KF.tobytes()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    x_NF = blobs(np.random.default_rng(9), 2000, 15, 12, 0.1)
    whole = clustering.fit(x_NF, 15, SETTINGS, np.random.default_rng(0))
    monkeypatch.setattr(clustering, "BLOCK_BYTES", 1)  # the least: 256 rows a block
    parts = clustering.fit(x_NF, 15, SETTINGS, np.random.default_rng(0))
    assert np.array_equal(whole.labels_N, parts.labels_N)
    np.testing.assert_allclose(whole.centroids_KF, parts.centroids_KF, atol=1e-6)


def test_a_memory_map_in_half_precision_equals_the_array(tmp_path):
    x_NF = blobs(np.random.default_rng(13), 900, 8, 12, 0.2).astype(np.float16)
    np.save(tmp_path / "features.npy", x_NF)
    mapped_NF = np.load(tmp_path / "features.npy", mmap_mode="r")
    for settings_ in (SETTINGS, SETTINGS.model_copy(update={"train_sample": 30})):
        array = clustering.fit(x_NF, 9, settings_, np.random.default_rng(1))
        mapped = clustering.fit(mapped_NF, 9, settings_, np.random.default_rng(1))
        assert array.labels_N.tobytes() == mapped.labels_N.tobytes()
        assert array.centroids_KF.tobytes() == mapped.centroids_KF.tobytes()


def test_training_on_a_sample_costs_little_of_the_objective():
    x_NF = blobs(np.random.default_rng(15), 6000, 20, 16, 0.25)
    full = clustering.fit(x_NF, 20, SETTINGS, np.random.default_rng(2))
    sampled = clustering.fit(x_NF, 20, SETTINGS.model_copy(update={"train_sample": 128}), np.random.default_rng(2))
    check_invariants(x_NF, 20, sampled)
    assert mean_cosine(x_NF, sampled) >= 0.98 * mean_cosine(x_NF, full)


def test_unusable_samples_are_left_out_and_do_not_matter():
    rng = np.random.default_rng(17)
    x_NF = blobs(rng, 300, 5, 8, 0.2)
    usable_N = rng.random(300) < 0.7
    spoilt_NF = np.where(usable_N[:, None], x_NF, np.nan)
    found = clustering.fit(spoilt_NF, 6, SETTINGS, np.random.default_rng(0), usable_N)
    alone = clustering.fit(x_NF[usable_N], 6, SETTINGS, np.random.default_rng(0))
    assert np.all(found.labels_N[~usable_N] == -1)
    assert np.array_equal(found.labels_N[usable_N], alone.labels_N)


def test_features_that_are_not_finite_are_named():
    x_NF = np.ones((20, 3), np.float32)
    x_NF[13, 1] = np.inf
    with pytest.raises(DataError, match="sample 13"):
        clustering.fit(x_NF, 3, SETTINGS, np.random.default_rng(0))


@pytest.mark.parametrize("k", [0, 21])
def test_more_clusters_than_samples_are_refused(k: int):
    with pytest.raises(ConfigError, match="give 1 to 20"):
        clustering.fit(np.ones((20, 3), np.float32), k, SETTINGS, np.random.default_rng(0))


def test_progress_reports_a_mean_cosine_that_grows():
    steps: list[clustering.Step] = []
    x_NF = blobs(np.random.default_rng(19), 1000, 10, 8, 0.3)
    clustering.fit(x_NF, 10, SETTINGS, np.random.default_rng(0), progress=steps.append)
    assert [steps[0].stage, steps[-1].stage] == ["start", "assign"]
    means = [step.mean_cosine for step in steps[1:]]
    assert len(means) >= 3
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(means))


def test_auto_follows_the_root_of_the_pool_until_the_budget_limits_it():
    assert clustering.resolve_k(SETTINGS, 1000, 0.1) == 20  # budget: 1000 * 0.1 / 5
    assert clustering.resolve_k(SETTINGS, 1000, 0.2) == 31  # root
    assert clustering.resolve_k(SETTINGS, 1_000_000, 0.2) == 1000  # root
    assert clustering.resolve_k(SETTINGS, 30, 0.2) == 2  # never one
    assert clustering.resolve_k(SETTINGS, 1, 0.2) == 1


def test_a_given_k_must_fit_the_usable_samples():
    fixed = SETTINGS.model_copy(update={"k": 150})
    assert clustering.resolve_k(fixed, 150, 0.2) == 150
    with pytest.raises(ConfigError, match=r"clusters\.k is 150 but only 149"):
        clustering.resolve_k(fixed, 149, 0.2)
    with pytest.raises(DataError, match="nothing to cluster"):
        clustering.resolve_k(fixed, 0, 0.2)
