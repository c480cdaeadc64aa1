"""Features that are matched with the target: the target's own are computed too, and prediction sees the products."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from selection_cases import config_of, go_on, result_of, run_here, small_selection, write_rows
from tiny_models import saved, tiny_neox

from clusterucb.compare.reference import feature_config, read_features, reference_config
from clusterucb.config import EmbeddingFeatures
from clusterucb.data.rows import read_rows
from clusterucb.run.feature_parts import PreparedPart, feature_parts, prepared_matches, prepared_parts
from clusterucb.run.feature_run import FeatureRun
from clusterucb.run.feature_stage import feature_store, feature_task
from clusterucb.run.in_process import run_in_process
from clusterucb.run.matching import target_means
from clusterucb.run.preparation import prepare
from clusterucb.run.prepared import open_prepared
from clusterucb.run.prior_knowledge import known_of
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.target_columns import target_columns
from clusterucb.run.target_stage import load_bank
from clusterucb.run.tasks import EmbeddingTask, FeatureTask
from clusterucb.run.worker import Worker
from clusterucb.types import Hidden

PREDICTIVE = "search.allocator.kind=predictive"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("material")


@pytest.fixture(scope="module")
def settings(material: Path) -> dict[str, object]:
    """Two targets, one of two subtasks, and features of the model and of a proxy."""
    settings = small_selection(material)
    sums = {"name": "sums", "path": settings.pop("target")["path"]}
    write_rows(material / "birds.jsonl", 6, ["birds", "code"], seed=3)
    birds = {"name": "birds", "path": str(material / "birds.jsonl"), "subtask_field": "source"}
    proxy = {
        "kind": "proxy",
        "base": str(saved(tiny_neox(hidden=16), material / "proxy")),
        "dim": 128,
        "batch_tokens": 96,
    }
    parts = [{"kind": "hidden", "layer": 1, "match": False}, proxy | {"modules": [r".*query_key_value"]}]
    return settings | {"targets": [sums, birds], "features": {"kind": "several", "parts": parts}}


@pytest.fixture(scope="module")
def finished(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_here(config_of(settings, PREDICTIVE), tmp_path_factory.mktemp("finished") / "run")


def columns_in(folder: RunFolder) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return what a run knows beside its features, and what it says of them."""
    config, (pool, target), bank = folder.read_config(), open_prepared(folder), load_bank(folder.state)
    parts = prepared_parts(config, pool)
    stores = [feature_store(part, folder) for part in parts]
    wanted, notes = target_means(config, target, folder, bank.subtasks)
    targets = target_columns(config, bank.subtasks)
    known, _ = known_of(parts, stores, folder.state, config.gradients, pool, bank, targets, wanted)
    return {columns.name: columns.values_NC for columns in known.columns}, notes


def test_prediction_sees_the_products_with_each_subtasks_mean(settings, finished: RunFolder) -> None:
    """Each example's features are computed alone here, by a worker that has seen nothing else."""
    columns, notes = columns_in(finished)
    assert set(columns) == {"match features-2 sums", "match features-2 birds"}
    assert not notes
    config = finished.read_config()
    (matched,) = prepared_matches(config, open_prepared(finished)[1])
    worker = Worker(config, CPU)

    def features(sample: int) -> np.ndarray:
        answer = worker.work(FeatureTask(matched.tokens.batch(np.array([sample])), matched.name), lambda: None)
        assert isinstance(answer, Hidden)
        return answer.features_BF[0].astype(np.float32)

    subtasks = list(matched.tokens.subtasks)
    part = prepared_parts(config, open_prepared(finished)[0])[1]
    pool_NF = feature_store(part, finished).matrix().astype(np.float32)
    for name, column in (
        ("sums", columns["match features-2 sums"][:, 0]),
        ("birds/birds", columns["match features-2 birds"][:, 0]),
        ("birds/code", columns["match features-2 birds"][:, 1]),
    ):
        mean_F = np.mean([features(i) for i, subtask in enumerate(subtasks) if subtask == name], axis=0)
        np.testing.assert_allclose(column, pool_NF @ mean_F, atol=3e-3)


def test_the_targets_passes_are_paid(finished: RunFolder) -> None:
    cost = {stage["stage"]: stage for stage in json.loads(finished.summary_file.read_text())["cost"]["stages"]}
    assert list(cost) == ["target", "features", "features-2", "features-2-target", "search", "audit"]
    own = cost["features-2-target"]
    assert (own["samples"], own["forward_passes"], own["backward_passes"]) == (14, 14, 14)
    assert own["share"] == cost["features-2"]["share"]
    assert own["seconds"] > 0


def test_a_run_interrupted_in_any_stage_ends_with_the_same_bytes(settings, finished: RunFolder, tmp_path: Path):
    config, folder = config_of(settings, PREDICTIVE), RunFolder(tmp_path / "run")
    worker, seen = Worker(config, CPU), []
    for _ in range(100):
        prepare(config, folder, lambda what, rows: None)
        if go_on(config, folder, worker, seen, jobs=17):
            break
    assert result_of(folder) == result_of(finished)
    computed = [key for key in seen if key[0] == "features-2-target"]
    assert len(computed) > 1, "it was never interrupted within"
    assert len(set(computed)) == len(computed), "a micro-batch of features was computed twice"


def test_what_only_prediction_sees_is_computed_for_it_alone(settings, tmp_path: Path) -> None:
    folder = run_here(config_of(settings, "features={kind: hidden, layer: 1}"), tmp_path / "run")
    assert not list(folder.state.glob("*-target*"))


def test_a_subtask_whose_examples_the_proxy_cannot_read_is_not_known_and_the_run_says_so(
    settings, material: Path, tmp_path: Path
) -> None:
    """Of a prompt that fills the proxy's positions no answer is left; the model's own tokens reach further."""
    rows = [json.loads(line) for line in (material / "birds.jsonl").read_text().splitlines()]
    for row in rows:
        if row["source"] == "code":
            row["messages"][0]["content"] = "a" * 60
    (tmp_path / "birds.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    changed = json.loads(json.dumps(settings))
    changed["targets"][1]["path"] = str(tmp_path / "birds.jsonl")
    changed["features"]["parts"][1] |= {"max_length": 60, "truncation": "right"}
    config = config_of(changed, PREDICTIVE)
    notes: list[str] = []
    folder = RunFolder(tmp_path / "run")
    prepare(config, folder, lambda what, rows: None)
    run_in_process(config, folder, lambda event: notes.append(event.text) if event.event == "note" else None)
    columns, _ = columns_in(folder)
    birds = columns["match features-2 birds"]
    assert np.isnan(birds[:, 1]).all()
    assert not np.isnan(birds[:, 0]).any()
    assert sum("of the target is not matched" in note for note in notes) == 3


def test_texts_of_several_targets_are_embedded_by_their_place(settings, finished: RunFolder) -> None:
    config, (_, target) = finished.read_config(), open_prepared(finished)
    part = PreparedPart("features", EmbeddingFeatures(encoder="any", match=True), target, 1.0, "target")
    task = feature_task(config, part)(np.array([9, 0]))
    assert isinstance(task, EmbeddingTask)
    first = [next(iter(read_rows(each))) for each in config.targets]
    assert task.texts[1] == "\n\n".join(message.content for message in first[0].messages)
    assert list(target.ids)[8] == f"birds/{first[1].id}"
    assert task.texts[0] == feature_task(config, replace(part))(np.arange(14)).texts[9]


def test_a_comparison_sees_the_products_that_a_run_sees_and_pays_for_them(settings, finished, tmp_path: Path) -> None:
    config = config_of(settings, PREDICTIVE)
    reference, folder = RunFolder(tmp_path / "reference"), RunFolder(tmp_path / "proxy")
    run = reference_config(config)
    prepare(run, reference, lambda what, rows: None)
    run_in_process(run, reference, lambda event: None)
    wanted = feature_config(config, "proxy")
    prepare(wanted, folder, lambda what, rows: None)
    run_in_process(wanted, folder, lambda event: None, run_type=FeatureRun)
    found = read_features("proxy", {"proxy": folder}, reference)
    columns, _ = columns_in(finished)
    seen = {each.name: each.values_NC for each in found.known.columns}
    assert set(seen) == {"match features sums", "match features birds"}
    for name in ("sums", "birds"):
        np.testing.assert_array_equal(seen[f"match features {name}"], columns[f"match features-2 {name}"])
    pool, target = open_prepared(finished)
    share = json.loads((finished.state / "feature_shares.json").read_text())["features-2"]
    # the tokenizer is the model's here
    assert found.cost == pytest.approx(2 * share * pool.lengths_N.sum())
    assert found.match_cost == pytest.approx(2 * share * target.lengths_N.sum())


def test_names_depend_on_the_place_alone(settings) -> None:
    parts = feature_parts(config_of(settings).features)
    assert [part.own_tokens() for part in parts] == [None, "features-2-tokens"]
    assert parts[1].own_tokens("target") == "features-2-target-tokens"
