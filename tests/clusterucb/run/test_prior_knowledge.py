"""A later period: what an earlier run's sketches and the sources tell the prediction."""

from pathlib import Path

import numpy as np
import pytest
from selection_cases import config_of, result_of, run_here, small_selection

from clusterucb.compare.reference import read_reference
from clusterucb.run.feature_parts import prepared_parts
from clusterucb.run.feature_stage import feature_store
from clusterucb.run.preparation import open_prepared
from clusterucb.run.prior_knowledge import known_beside, known_of
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.target_stage import load_bank


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return small_selection(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def first(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The exhaustive first period."""
    return run_here(
        config_of(settings, "search.allocator.kind=exhaustive", "audit.samples=0"), tmp_path_factory.mktemp("first")
    )


def test_old_sketches_are_matched_with_the_target_and_the_same_run_twice_selects_the_same(
    settings: dict[str, object], first: RunFolder, tmp_path: Path
) -> None:
    later = config_of(
        settings, "features.kind=gradient", f"features.path={first.path}", "search.allocator.kind=predictive"
    )
    runs = [run_here(later, tmp_path / name) for name in ("one", "two")]
    assert result_of(runs[0]) == result_of(runs[1])
    pool, _ = open_prepared(runs[0])
    parts = prepared_parts(later, pool)
    known = known_of(parts, [feature_store(part, runs[0]) for part in parts], pool, load_bank(runs[0].state))
    assert len(known.matrices) == 1
    assert len(set(zip(known.factors[0].codes_N.tolist(), pool.sources, strict=True))) == len(set(pool.sources))
    rewards_N = read_reference(first).rewards_N
    assert np.corrcoef(known.columns[0].values_NC[:, 0], rewards_N)[0, 1] > 0.8, "the checkpoint has not moved"


def test_features_that_are_no_old_sketches_bring_no_match(settings: dict[str, object], first: RunFolder) -> None:
    pool, _ = open_prepared(first)
    bank = load_bank(first.state)
    matrix_NF = np.ones((pool.num_samples, 512), dtype=np.float16)
    assert known_beside(False, matrix_NF, pool, bank).columns == ()
    assert known_beside(True, matrix_NF[:, :100], pool, bank).columns == (), "sketches of another size"
