"""A whole selection in one process: what comes out, whatever is interrupted or configured."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from selection_cases import config_of, result_of, run_here, small_selection

from clusterucb.config import RunConfig
from clusterucb.errors import RunFolderError
from clusterucb.run.pipeline import SelectionRun
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.worker import Worker


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return small_selection(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def finished(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_here(config_of(settings), tmp_path_factory.mktemp("finished") / "run")


def scores_of(folder: RunFolder) -> dict[str, list[object]]:
    return pq.read_table(folder.scores_file).to_pydict()


def test_the_selection_is_the_best_of_what_was_drawn_and_rows_are_untouched(finished: RunFolder, settings):
    rows = [json.loads(line) for line in finished.selection_file.read_text().splitlines()]
    pool = {
        json.loads(line)["id"]: json.loads(line) for line in Path(settings["pool"]["path"]).read_text().splitlines()
    }
    assert len(rows) == 8
    assert [row["clusterucb"]["rank"] for row in rows] == list(range(1, 9))
    for row in rows:
        provenance = row.pop("clusterucb")
        assert row == pool[provenance["id"]]
    scores = scores_of(finished)
    drawn = [
        (-i, id)
        for i, id, stage in zip(scores["influence"], scores["id"], scores["stage"], strict=True)
        if stage == "search"
    ]
    assert [row["id"] for row in rows] == [id for _, id in sorted(drawn)[:8]]


def test_the_budget_is_spent_exactly_and_the_audit_is_apart(finished: RunFolder):
    assert Counter(scores_of(finished)["stage"]) == {"search": 64, "audit": 32}


def test_the_summary_counts_what_was_computed(finished: RunFolder):
    summary = json.loads(finished.summary_file.read_text())
    passes = {s["stage"]: (s["samples"], s["forward_passes"], s["backward_passes"]) for s in summary["cost"]["stages"]}
    assert passes == {"target": (8, 8, 8), "features": (160, 160, 0), "search": (64, 64, 64), "audit": (32, 32, 32)}
    assert summary["cost"]["share_of_exhaustive_gradients"] == pytest.approx((8 + 64 + 32) / 168)
    assert sum(source["pool"] for source in summary["by_source"]) == 160
    assert sum(cluster["scored"] for cluster in summary["by_cluster"]) == 64
    assert summary["audit"]["low"] <= summary["audit"]["recall"] <= summary["audit"]["high"]


def interrupted(config: RunConfig, path: Path, jobs: int, worker: Worker) -> RunFolder:
    """Start a run again and again, dropping it after every `jobs` jobs, until it is through."""
    folder = RunFolder(path)
    for _ in range(1000):
        prepare(config, folder, lambda what, rows: None)
        run = SelectionRun(config, folder, lambda event: None)
        left = jobs
        try:
            for stage in run.stages():
                while (job := stage.ask()) is not None:
                    if left == 0:
                        raise InterruptedError
                    left -= 1
                    stage.tell(job, worker.work(job.task, lambda run=run: run.bank))
            return folder
        except InterruptedError:
            continue
        finally:
            run.close()
    raise AssertionError("the run never ended")


@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_interrupted_after_every_few_jobs_ends_with_the_same_bytes(settings, tmp_path: Path, lag: int):
    import torch

    config = config_of(settings, f"search.rounds.lag={lag}")
    whole = run_here(config, tmp_path / "whole")
    worker = Worker(config, torch.device("cpu"))
    parts = interrupted(config, tmp_path / "parts", 5, worker)
    assert result_of(parts) == result_of(whole)


@pytest.mark.parametrize(
    "overrides",
    [
        ["search.allocator.kind=ucb1"],
        ["search.allocator.kind=thresh_hard"],
        ["search.allocator.kind=thresh_normal"],
        ["search.allocator.kind=uniform"],
        ["search.compat=official"],
        ["gradients.scoring=sketch"],
        ["gradients.sketch.kind=none"],
        ["gradients.precondition.kind=plain", "gradients.modules=['model.layers.1.mlp.down_proj']"],
        ["features.kind=hidden", "features.layer=middle", "features.pooling=mean"],
        ["features.kind=output_gradient", "features.dim=128"],
        ["selection.count=3", "selection.caps.source.share=0.4", "audit.samples=0"],
    ],
)
def test_every_configuration_runs_to_its_end(settings, tmp_path: Path, overrides: list[str]):
    config = config_of(settings, *overrides)
    folder = run_here(config, tmp_path / "run")
    summary = json.loads(folder.summary_file.read_text())
    assert summary["scored"] == 64
    assert summary["selected"] == config.selection.size(160)


def test_exhaustive_scores_everything_and_needs_no_audit(settings, finished: RunFolder, tmp_path: Path):
    folder = run_here(config_of(settings, "search.allocator.kind=exhaustive"), tmp_path / "run")
    summary = json.loads(folder.summary_file.read_text())
    assert summary["scored"] == 160
    assert summary["audit"]["recall"] == 1.0
    everything, some = scores_of(folder), scores_of(finished)
    influence = dict(zip(everything["id"], everything["influence"], strict=True))
    for name, value in zip(some["id"], some["influence"], strict=True):
        assert value == pytest.approx(influence[name], abs=1e-5)


def test_gradients_as_features_answer_exhaustively_and_serve_the_next_run(settings, tmp_path: Path):
    notes: list[str] = []
    first = RunFolder(tmp_path / "first")
    config = config_of(settings, "features.kind=gradient")
    prepare(config, first, lambda what, rows: None)
    from clusterucb.run.in_process import run_in_process

    run_in_process(config, first, lambda event: notes.append(event.text) if event.event == "note" else None)
    assert any("exhaustive" in note for note in notes)
    assert json.loads(first.summary_file.read_text())["scored"] == 160
    second = run_here(config_of(settings, "features.kind=gradient", f"features.path={first.path}"), tmp_path / "second")
    stages = [s["stage"] for s in json.loads(second.summary_file.read_text())["cost"]["stages"]]
    assert stages == ["target", "search", "audit"]
    sketches = np.load(first.state / "features.npy")
    np.testing.assert_allclose(np.linalg.norm(sketches.astype(np.float32), axis=1), 1.0, atol=1e-2)
    third = run_here(
        config_of(settings, "features.kind=gradient", f"features.path={first.state / 'features.npy'}"),
        tmp_path / "third",
    )
    assert result_of(third) == result_of(second)


def test_a_pool_that_changed_is_refused_on_resume(settings, tmp_path: Path):
    pool = tmp_path / "pool.jsonl"
    pool.write_text(Path(settings["pool"]["path"]).read_text())
    config = config_of(settings, f"pool.path={pool}")
    run_here(config, tmp_path / "run")
    pool.write_text(pool.read_text().replace("owl", "emu", 1))
    with pytest.raises(RunFolderError, match="has changed since this run began"):
        prepare(config, RunFolder(tmp_path / "run"), lambda what, rows: None)
