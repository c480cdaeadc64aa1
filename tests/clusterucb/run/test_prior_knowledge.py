"""A later period: what an earlier run found, predicted and sketched tells the prediction."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from selection_cases import config_of, result_of, run_here, small_selection

from clusterucb.compare.reference import feature_config, read_features, read_reference
from clusterucb.config import HashSketch, RunConfig
from clusterucb.errors import DataError
from clusterucb.gradients.targets import saved_space
from clusterucb.run.earlier_run import SketchSpace
from clusterucb.run.feature_parts import prepared_parts
from clusterucb.run.feature_run import FeatureRun
from clusterucb.run.feature_stage import feature_store
from clusterucb.run.in_process import run_in_process
from clusterucb.run.preparation import prepare
from clusterucb.run.prepared import open_prepared
from clusterucb.run.prior_knowledge import known_of
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import ScoreArchive
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.target_columns import target_columns
from clusterucb.run.target_stage import load_bank
from clusterucb.search.predictive import Knowledge

PREDICTIVE = "search.allocator.kind=predictive"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return small_selection(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def first(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The exhaustive first period."""
    return run_here(
        config_of(settings, "search.allocator.kind=exhaustive", "audit.samples=0"), tmp_path_factory.mktemp("first")
    )


def after(first: RunFolder, settings: dict[str, object], *more: str) -> RunConfig:
    return config_of(settings, "features.kind=gradient", f"features.path={first.location}", PREDICTIVE, *more)


@pytest.fixture(scope="module")
def second(settings: dict[str, object], first: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_here(after(first, settings), tmp_path_factory.mktemp("second") / "run")


def known_in(folder: RunFolder) -> tuple[Knowledge, tuple[str, ...]]:
    config = folder.read_config()
    pool, _ = open_prepared(folder)
    parts = prepared_parts(config, pool)
    stores = [feature_store(part, folder) for part in parts]
    bank = load_bank(folder.state)
    return known_of(parts, stores, folder.state, config.gradients, pool, bank, target_columns(config, bank.subtasks))


def columns_of(known: Knowledge) -> dict[str, np.ndarray]:
    return {columns.name: columns.values_NC for columns in known.columns}


def test_the_second_period_knows_influences_and_matches_and_selects_the_same_twice(
    settings: dict[str, object], first: RunFolder, second: RunFolder, tmp_path: Path
) -> None:
    again = run_here(after(first, settings), tmp_path / "again")
    assert result_of(again) == result_of(second)
    known, notes = known_in(second)
    assert not notes
    assert set(columns_of(known)) == {"influence", "match"}
    pool, _ = open_prepared(second)
    assert len(set(zip(known.factors[0].codes_N.tolist(), pool.sources, strict=True))) == len(set(pool.sources))
    rewards_N = read_reference(first).rewards_N
    np.testing.assert_array_equal(columns_of(known)["influence"][:, 0], rewards_N.astype(np.float32))
    assert np.corrcoef(columns_of(known)["match"][:, 0], rewards_N)[0, 1] > 0.8, "the checkpoint has not moved"


def test_a_third_period_knows_what_the_second_scored_and_predicted_and_inherits_its_sketches(
    settings: dict[str, object], second: RunFolder, tmp_path: Path
) -> None:
    """The pool comes in another order and has a sample less: samples are known by id."""
    lines = Path(str(settings["pool"]["path"])).read_text().splitlines()[:0:-1]
    (tmp_path / "pool.jsonl").write_text("\n".join(lines))
    third = run_here(after(second, settings, f"pool.path={tmp_path / 'pool.jsonl'}"), tmp_path / "run")
    here, there = open_prepared(third)[0], open_prepared(second)[0]
    at = {name: sample for sample, name in enumerate(there.ids)}
    back = np.array([at[name] for name in here.ids])
    columns = columns_of(known_in(third)[0])
    table = ScoreTable.of(ScoreArchive(second.state), 1)
    scored_N = np.full(len(there), np.nan, np.float32)
    scored_N[table.samples_B] = table.influence_BS[:, 0]
    np.testing.assert_array_equal(columns["influence"][:, 0], scored_N[back])
    assert 0 < np.isnan(columns["influence"]).sum() < len(here)
    np.testing.assert_array_equal(columns["prediction"][:, 0], np.load(second.state / "predictions.npy")[back])
    assert np.isfinite(columns["match"]).all()
    assert np.corrcoef(columns["prediction"][:, 0], columns["match"][:, 0])[0, 1] > 0.5


def test_sketches_of_another_map_are_not_matched_and_the_run_says_so(
    settings: dict[str, object], first: RunFolder, tmp_path: Path
) -> None:
    config, folder, notes = after(first, settings, "gradients.sketch.seed=1"), RunFolder(tmp_path / "run"), []
    prepare(config, folder, lambda what, rows: None)
    run_in_process(config, folder, lambda event: notes.append(event.text) if event.event == "note" else None)
    assert any("not matched with the target" in note and '"seed": 1' in note for note in notes)
    assert set(columns_of(known_in(folder)[0])) == {"influence"}


def test_sketches_are_alike_only_with_the_same_map_of_the_same_parameters(second: RunFolder) -> None:
    config, bank = second.read_config(), load_bank(second.state)
    here = SketchSpace.of(config.gradients, bank)
    assert here.differs(SketchSpace.model_validate_json(here.model_dump_json())) == ""
    wider = config.gradients.model_copy(update={"sketch": HashSketch(dim=1024)})
    assert '"dim": 1024' in here.differs(SketchSpace.of(wider, bank))
    fewer = dict(list(bank.means.items())[1:])
    assert "other parameters" in here.differs(SketchSpace.of(config.gradients, replace(bank, means=fewer)))


def test_a_comparison_sees_parts_together(settings: dict[str, object], first: RunFolder, tmp_path: Path) -> None:
    config = after(first, settings)
    folders = {kind: RunFolder(tmp_path / kind) for kind in ("hidden", "earlier")}
    for kind, folder in folders.items():
        wanted = feature_config(config, kind)
        prepare(wanted, folder, lambda what, rows: None)
        run_in_process(wanted, folder, lambda event: None, run_type=FeatureRun)
    found = read_features("hidden+earlier", folders, first)
    pool, target = open_prepared(first)
    assert found.cost == pool.lengths_N.sum(), "the earlier period is paid"
    assert found.match_cost == target.lengths_N.sum()
    assert [matrix.shape for matrix in found.known.matrices] == [(160, 32), (160, 512)]
    assert set(columns_of(found.known)) == {"influence", "match", "match features"}
    assert set(columns_of(read_features("hidden", folders, first).known)) == {"match features"}


def test_a_bare_matrix_says_nothing_of_its_making(settings: dict[str, object], first: RunFolder, tmp_path: Path):
    np.save(tmp_path / "old.npy", np.random.default_rng(0).normal(size=(160, 512)).astype(np.float32))
    folder = run_here(after(RunFolder(tmp_path / "old.npy"), settings), tmp_path / "run")
    known, notes = known_in(folder)
    assert columns_of(known) == {}
    assert "nothing says how" in notes[0]


def test_a_run_that_scored_a_part_may_stand_second_but_not_first(settings: dict[str, object], tmp_path: Path):
    part = run_here(config_of(settings), tmp_path / "part")
    with pytest.raises(DataError, match="let another part of features"):
        run_here(after(part, settings), tmp_path / "refused")
    parts = f"[{{kind: hidden}}, {{kind: gradient, path: {part.path}}}]"
    folder = run_here(config_of(settings, f"features={{kind: several, parts: {parts}}}", PREDICTIVE), tmp_path / "run")
    columns = columns_of(known_in(folder)[0])
    scored = json.loads(part.summary_file.read_text())["scored"] + 32  # and the audit's
    assert np.isfinite(columns["influence"]).sum() == np.isfinite(columns["match"]).sum() == scored


def test_a_run_at_a_url_is_an_earlier_run_too(
    settings: dict[str, object], second: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERUCB_SCRATCH", str(tmp_path / "scratch"))
    before = sorted((path, path.stat().st_mtime_ns) for path in second.path.rglob("*"))
    folder = RunFolder(tmp_path / "run")
    prepare(after(RunFolder.open(f"file://{second.path}"), settings), folder, lambda what, rows: None)
    pool, _ = open_prepared(folder)
    assert np.load(folder.state / "features.npy").any(axis=1).all()
    assert saved_space(second.state / "target.safetensors") == load_bank(second.state).space
    assert len(pool) == 160
    assert sorted((path, path.stat().st_mtime_ns) for path in second.path.rglob("*")) == before, "it is only read"
