"""Several targets in one run: draws are shared, every target gets its own selection, and all get one together."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from selection_cases import config_of, result_of, run_here, small_selection, write_rows

from clusterucb.errors import ConfigError, RunFolderError
from clusterucb.run.pipeline import SelectionRun
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.worker import Worker

NAMES = ("sums", "birds")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("material")
    shared = small_selection(folder)
    single = shared.pop("target")
    birds = str(write_rows(folder / "birds.jsonl", 6, ["birds", "code"], seed=3))
    sums = {"name": "sums", "path": single["path"]}
    return shared | {"targets": [sums, {"name": "birds", "path": birds, "subtask_field": "source", "weight": 2.0}]}


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_here(config_of(settings), tmp_path_factory.mktemp("finished") / "run")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_hold_every_target_and_every_subtask(finished: RunFolder) -> None:
    scores = pq.read_table(finished.scores_file).to_pydict()
    subtasks = np.stack([scores[f"influence/birds/{name}"] for name in ("birds", "code")], axis=1)
    np.testing.assert_array_equal(scores["influence/birds"], subtasks.max(axis=1))
    for i, target in enumerate(scores["target"]):
        assert scores["influence"][i] == scores[f"influence/{target}"][i]
        assert scores["subtask"][i].partition("/")[0] == target


def test_each_selection_is_the_best_of_the_shared_draws(finished: RunFolder) -> None:
    scores = pq.read_table(finished.scores_file).to_pydict()
    drawn = [i for i, stage in enumerate(scores["stage"]) if stage == "search"]
    for name in NAMES:
        best = sorted(drawn, key=lambda i: (-scores[f"influence/{name}"][i], scores["id"][i]))[:8]
        rows = rows_of(finished.selection_file_of(name))
        assert [row["id"] for row in rows] == [scores["id"][i] for i in best]
        assert [scores[f"rank/{name}"][i] for i in best] == list(range(1, 9))
        for row, i in zip(rows, best, strict=True):
            assert row["clusterucb"]["influence"] == pytest.approx(scores[f"influence/{name}"][i], rel=1e-6)


def test_the_joint_selection_takes_turns_by_weight(finished: RunFolder) -> None:
    joint = rows_of(finished.selection_file)
    ids = {name: [row["id"] for row in rows_of(finished.selection_file_of(name))] for name in NAMES}
    taken = [row["id"] for row in joint]
    assert len(set(taken)) == 8
    assert set(ids["birds"][:5]) <= set(taken)  # its turns are two of three
    assert set(ids["sums"][:2]) <= set(taken)
    for row in joint:
        said = row["clusterucb"]
        assert said["influence"] == said["influences"][said["target"]]


def test_the_summary_tells_of_every_target(finished: RunFolder) -> None:
    summary = json.loads(finished.summary_file.read_text())
    assert [target["name"] for target in summary["targets"]] == list(NAMES)
    assert summary["audit"] is None
    joint = {row["id"] for row in rows_of(finished.selection_file)}
    for target in summary["targets"]:
        own = [row["id"] for row in rows_of(finished.selection_file_of(target["name"]))]
        assert target["in_joint"] == len(joint & set(own))
        assert target["audit"]["low"] <= target["audit"]["recall"] <= target["audit"]["high"]
    passes = {stage["stage"]: stage["backward_passes"] for stage in summary["cost"]["stages"]}
    assert passes == {"target": 14, "features": 0, "search": 64, "audit": 32}  # one gradient serves both


@pytest.mark.parametrize("allocator", ["ucb_beta", "predictive"])
def test_one_named_target_selects_what_the_plain_one_selects(settings, tmp_path: Path, allocator: str) -> None:
    named = dict(settings) | {"targets": settings["targets"][:1]}
    plain = {key: value for key, value in settings.items() if key != "targets"}
    plain["target"] = {"path": settings["targets"][0]["path"]}
    choice = f"search.allocator.kind={allocator}"
    first = run_here(config_of(named, choice), tmp_path / "named")
    second = run_here(config_of(plain, choice), tmp_path / "plain")
    kept = ("id", "rank", "influence", "cluster", "round")
    told = [
        [{key: row["clusterucb"][key] for key in kept} for row in rows_of(path)]
        for path in (first.selection_file_of("sums"), first.selection_file, second.selection_file)
    ]
    assert told[0] == told[1] == told[2]


def test_an_interrupted_run_ends_with_the_same_bytes(settings, tmp_path: Path) -> None:
    config = config_of(settings, "search.allocator.kind=predictive", "search.rounds.lag=1")
    whole = run_here(config, tmp_path / "whole")
    folder = RunFolder(tmp_path / "broken")
    worker = Worker(config, torch.device("cpu"))
    for stop in (9, 14, 1000):
        prepare(config, folder, lambda what, rows: None)
        run = SelectionRun(config, folder, lambda event: None)
        jobs = 0
        for stage in run.stages():
            while not stage.done and jobs < stop:
                job = stage.ask()
                assert job is not None
                stage.tell(job, worker.work(job.task, lambda held=run: held.bank))
                jobs += 1
            if jobs >= stop:
                break
        run.close()
    assert result_of(folder) == result_of(whole)
    for name in NAMES:
        assert folder.selection_file_of(name).read_bytes() == whole.selection_file_of(name).read_bytes()


def test_what_is_wrong_with_targets_is_named(settings) -> None:
    with pytest.raises(ConfigError, match="target is missing"):
        config_of({key: value for key, value in settings.items() if key != "targets"})
    with pytest.raises(ConfigError, match="both set"):
        config_of(settings | {"target": {"path": "x.jsonl"}})
    with pytest.raises(ConfigError, match="'sums' twice"):
        config_of(settings | {"targets": [settings["targets"][0]] * 2})


def test_changed_examples_refuse_a_resume(settings, finished: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text(Path(settings["targets"][0]["path"]).read_text())
    moved = [settings["targets"][0] | {"path": str(path)}, settings["targets"][1]]
    config = config_of(settings | {"targets": moved})
    run_here(config, tmp_path / "run")
    write_rows(path, 9, ["sums"], seed=8)
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(RunFolderError, match="changed"):
        prepare(config, RunFolder(tmp_path / "run"), lambda what, rows: None)
