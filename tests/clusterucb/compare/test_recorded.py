"""A recorded table gives rewards, features and costs, or says what is wrong with it."""

from pathlib import Path

import numpy as np
import pytest

from clusterucb.compare.recorded import RecordedTable
from clusterucb.errors import DataError

INFLUENCE_NS = np.array([[0.1, 0.3], [0.2, -0.1], [np.nan, np.nan]], np.float32)


def table(path: Path, **arrays: np.ndarray) -> RecordedTable:
    np.savez(path, influence_sums=INFLUENCE_NS, num_tokens=np.array([5, 7, 9]), **arrays)
    return RecordedTable(path)


def test_rewards_are_maxima_over_subtasks_and_lengths_are_tokens(tmp_path: Path):
    found = table(tmp_path / "one.npz").reference(None)
    np.testing.assert_allclose(found.rewards_N, [0.3, 0.2, np.nan], rtol=1e-6)
    assert found.cost == 2 * (5 + 7 + 9)


def test_without_lengths_every_sample_counts_the_same(tmp_path: Path):
    np.savez(tmp_path / "one.npz", influence_sums=INFLUENCE_NS[:, 0])
    assert RecordedTable(tmp_path / "one.npz").reference("sums").cost == 2 * 3


def test_hidden_states_cost_a_forward_pass_gradients_two_and_earlier_ones_nothing(tmp_path: Path):
    arrays = {"hidden": np.ones((3, 2)), "sketch": np.ones((3, 4)), "id": np.array(["a", "b", "c"])}
    now, before = table(tmp_path / "now.npz", **arrays), table(tmp_path / "before.npz", **arrays)
    assert now.kinds == ("hidden", "gradient")
    assert [now.features(kind).cost for kind in now.kinds] == [21, 42]
    assert before.earlier_features(now).cost == 0
    assert before.earlier_features(now).matrix_NF.shape == (3, 4)


def test_what_a_table_lacks_is_named(tmp_path: Path):
    arrays = {"sketch": np.ones((3, 4)), "id": np.array(["a", "b", "c"])}
    found = table(tmp_path / "one.npz", **arrays)
    with pytest.raises(DataError, match=r"one\.npz holds influence on sums: choose one with --target"):
        found.reference("birds")
    with pytest.raises(DataError, match=r"no features 'hidden': choose from gradient"):
        found.features("hidden")
    other = table(tmp_path / "two.npz", **(arrays | {"id": np.array(["a", "c", "b"])}))
    with pytest.raises(DataError, match="hold other samples, or in another order"):
        other.earlier_features(found)


def test_what_is_no_table_is_refused(tmp_path: Path):
    np.save(tmp_path / "matrix.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("not a table")
    for name in ("matrix.npy", "text.npz", "missing.npz"):
        with pytest.raises(DataError, match=name):
            RecordedTable(tmp_path / name)


def test_parts_stand_side_by_side_and_clusters_see_the_first(tmp_path: Path):
    arrays = {"hidden": np.ones((3, 2)), "sketch": np.eye(3, 4), "id": np.array(["a", "b", "c"])}
    beside = {"source": np.array(["x", "y", "x"]), "target_sketch_sums": np.arange(8.0).reshape(2, 4)}
    now, before = table(tmp_path / "now.npz", **arrays, **beside), table(tmp_path / "before.npz", **arrays)
    found = now.described("earlier+hidden+influence+match+source", None, before)
    np.testing.assert_array_equal(found.matrix_NF, np.eye(3, 4))
    assert [matrix.shape for matrix in found.known.matrices] == [(3, 4), (3, 2)]
    assert found.cost == 21, "a forward pass for the hidden states"
    influence, match = found.known.columns
    np.testing.assert_allclose(influence.values_NC, INFLUENCE_NS)
    np.testing.assert_allclose(match.values_NC, [[0, 4], [1, 5], [2, 6]])
    assert found.known.factors[0].codes_N.tolist() == [0, 1, 0]


def test_parts_that_cannot_be_had_are_named(tmp_path: Path):
    arrays = {"sketch": np.ones((3, 4)), "id": np.array(["a", "b", "c"])}
    now, before = table(tmp_path / "now.npz", **arrays), table(tmp_path / "before.npz", **arrays)
    for parts, message in (
        ("earlier", "earlier features come from an earlier table"),
        ("gradient+influence", "influence features come from an earlier table"),
    ):
        with pytest.raises(DataError, match=message):
            now.described(parts, None, None)
    with pytest.raises(DataError, match="holds no target_sketch_sums: leave the part `match` out"):
        now.described("gradient+match", None, before)
    with pytest.raises(DataError, match="holds no source"):
        now.described("gradient+source", None, None)
    with pytest.raises(DataError, match="no features 'influence'"):
        now.described("influence", None, before)


def test_further_features_cost_what_the_table_says_and_match_the_target(tmp_path: Path):
    cheap_NF, wanted_SF = np.eye(3, 5, dtype=np.float16), np.array([[1.0, 0, 0, 0, 0], [0, 2.0, 0, 0, 0]])
    more = {"features_proxy": cheap_NF, "passes_proxy": np.array(0.01), "target_proxy_sums": wanted_SF}
    found = table(tmp_path / "one.npz", hidden=np.ones((3, 2)), **more)
    assert found.kinds == ("hidden", "proxy")
    described = found.described("proxy+hidden+match-proxy", "sums", None)
    assert described.cost == pytest.approx(1.01 * (5 + 7 + 9))
    np.testing.assert_array_equal(described.known.columns[0].values_NC, cheap_NF @ wanted_SF.T)
    with pytest.raises(DataError, match="no target_hidden_sums: leave the part match-hidden out"):
        found.described("proxy+match-hidden", "sums", None)
    with pytest.raises(DataError, match="what proxy features cost: add passes_proxy"):
        table(tmp_path / "two.npz", features_proxy=cheap_NF).features("proxy")


def test_several_targets_are_columns_of_one_reference(tmp_path: Path):
    found = table(tmp_path / "one.npz", influence_birds=np.array([0.5, 0.1, np.nan]))
    both = found.reference("birds+sums")
    assert both.targets == ("birds", "sums")
    np.testing.assert_allclose(both.rewards_N, [[0.5, 0.3], [0.1, 0.2], [np.nan, np.nan]], rtol=1e-6)
