"""Several kinds of features in one run: each a stage, a store, a line in the ledger; the first makes the clusters."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from selection_cases import config_of, go_on, result_of, run_here, small_selection

from clusterucb.errors import ConfigError
from clusterucb.run.feature_parts import prepared_parts
from clusterucb.run.feature_stage import feature_store
from clusterucb.run.in_process import run_in_process
from clusterucb.run.preparation import prepare
from clusterucb.run.prepared import open_prepared
from clusterucb.run.prior_knowledge import known_of
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.target_columns import target_columns
from clusterucb.run.target_stage import load_bank
from clusterucb.run.worker import Worker

THREE = "features={kind: several, parts: [{kind: hidden, layer: 1}, {kind: given, field: numbers}, {kind: hidden}]}"
PREDICTIVE = "search.allocator.kind=predictive"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("material")
    settings = small_selection(folder)
    rows = [json.loads(line) for line in (folder / "pool.jsonl").read_text().splitlines()]
    rng = np.random.default_rng(0)
    lines = [json.dumps(row | {"numbers": rng.normal(size=5).tolist()}) for row in rows]
    (folder / "pool.jsonl").write_text("\n".join(lines))
    return settings


@pytest.fixture(scope="module")
def finished(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_here(config_of(settings, THREE, PREDICTIVE), tmp_path_factory.mktemp("finished") / "run")


def stages_of(folder: RunFolder) -> dict[str, dict[str, float]]:
    cost = json.loads(folder.summary_file.read_text())["cost"]
    return {stage["stage"]: stage for stage in cost["stages"]}


def test_every_computed_part_has_its_line_and_an_early_exit_costs_its_share(finished: RunFolder):
    stages = stages_of(finished)
    assert list(stages) == [
        "target",
        "features",
        "features-3",
        "features-target",
        "features-3-target",
        "search",
        "audit",
    ]
    assert [stages[name]["share"] for name in ("features", "features-3")] == [0.5, 1.0]
    summary = json.loads(finished.summary_file.read_text())["cost"]
    spent = sum(
        s["share"] * s["tokens"] * (2 if s["backward_passes"] else 1) for s in stages.values()
    )  # fmt: skip
    assert summary["share_of_exhaustive_tokens"] == pytest.approx(spent / (2 * summary["exhaustive"]["tokens"]))


def test_prediction_sees_every_part_and_clusters_come_from_the_first(settings, finished: RunFolder, tmp_path: Path):
    config = config_of(settings, THREE, PREDICTIVE)
    pool, _ = open_prepared(finished)
    parts = prepared_parts(config, pool)
    stores = [feature_store(part, finished) for part in parts]
    bank = load_bank(finished.state)
    targets = target_columns(config, bank.subtasks)
    known, _ = known_of(parts, stores, finished.state, config.gradients, pool, bank, targets)
    assert [matrix.shape for matrix in known.matrices] == [(160, 32), (160, 5), (160, 32)]
    alone = run_here(config_of(settings, "features.layer=1"), tmp_path / "alone")
    with np.load(alone.state / "clusters.npz") as one, np.load(finished.state / "clusters.npz") as several:
        np.testing.assert_array_equal(one["labels_N"], several["labels_N"])


def test_a_run_interrupted_in_any_stage_ends_with_the_same_bytes(settings, finished: RunFolder, tmp_path: Path):
    config, folder = config_of(settings, THREE, PREDICTIVE), RunFolder(tmp_path / "run")
    worker, seen = Worker(config, torch.device("cpu")), []
    for _ in range(100):
        prepare(config, folder, lambda what, rows: None)
        if go_on(config, folder, worker, seen, jobs=19):
            break
    assert result_of(folder) == result_of(finished)
    computed = [key for key in seen if key[0].startswith("features")]
    assert len(set(computed)) == len(computed), "a micro-batch of features was computed twice"
    assert {"features", "features-3"} <= {stage for stage, _ in computed}


def test_an_allocator_that_looks_at_clusters_alone_has_the_first_part_computed_and_says_so(settings, tmp_path: Path):
    config, folder, notes = config_of(settings, THREE), RunFolder(tmp_path / "run"), []
    prepare(config, folder, lambda what, rows: None)
    run_in_process(config, folder, lambda event: notes.append(event.text) if event.event == "note" else None)
    assert list(stages_of(folder)) == ["target", "features", "search", "audit"]
    assert any("2 of them are not computed" in note for note in notes)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ("[{kind: hidden}, {kind: gradient}]", "features.parts.1 are gradients of this checkpoint"),
        ("[{kind: hidden, layr: 3}]", "features.parts.0.layr is not a setting: did you mean 'layer'"),
        ("[]", "features.parts is"),
    ],
)
def test_parts_that_cannot_be_are_named(settings, parts: str, says: str):
    with pytest.raises(ConfigError, match=says):
        config_of(settings, f"features={{kind: several, parts: {parts}}}")
