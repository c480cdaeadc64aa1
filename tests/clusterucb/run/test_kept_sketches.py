"""Warm answers: a store changes what is computed, never what comes out."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from selection_cases import config_of, result_of, run_here, small_selection, write_rows

from clusterucb.config import RunConfig
from clusterucb.errors import ClusterUCBError, ConfigError, RunFolderError
from clusterucb.run.in_process import run_in_process
from clusterucb.run.pipeline import SelectionRun
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.worker import Worker
from clusterucb.store.upkeep import evict, holdings, shard_files


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("material")
    settings = small_selection(folder, rows=120)
    write_rows(folder / "other.jsonl", 8, ["birds"], seed=3)
    settings["audit"] = {"samples": 10}
    settings["search"] = {"budget": 0.4, "allocator": {"kind": "uniform"}}
    return settings


def configured(material: dict[str, object], store: Path | None, target: str, *more: str) -> RunConfig:
    folder = Path(material["pool"]["path"]).parent
    kept = [] if store is None else [f"store.path={store}"]
    return config_of(material, f"target.path={folder / target}", "gradients.scoring=sketch", *kept, *more)


def stages_of(folder: RunFolder) -> dict[str, tuple[int, int]]:
    """Return (computed, reused) by stage of the pool."""
    stages = json.loads(folder.summary_file.read_text())["cost"]["stages"]
    return {s["stage"]: (s["backward_passes"], s["reused"]) for s in stages if s["stage"] not in ("target", "features")}


def counts_of(folder: RunFolder) -> tuple[int, int]:
    stages = stages_of(folder).values()
    return sum(computed for computed, _ in stages), sum(reused for _, reused in stages)


def ids_of(folder: RunFolder) -> set[str]:
    return set(pq.read_table(folder.scores_file)["id"].to_pylist())


def test_another_target_computes_only_what_is_missing_and_ends_in_the_same_bytes(material, tmp_path: Path):
    alone = "gradients.batch_tokens=1"  # each sample by itself: its numbers then depend on no company
    wanted = (alone, "search.allocator.kind=ucb_beta")
    cold = run_here(configured(material, None, "other.jsonl", *wanted), tmp_path / "cold")
    first = run_here(configured(material, tmp_path / "store", "target.jsonl", alone), tmp_path / "first")
    warm = run_here(configured(material, tmp_path / "store", "other.jsonl", *wanted), tmp_path / "warm")
    assert result_of(warm) == result_of(cold)
    shared = len(ids_of(first) & ids_of(warm))
    assert 0 < shared < len(ids_of(warm))
    assert counts_of(warm) == (len(ids_of(warm)) - shared, shared)
    assert counts_of(cold) == (len(ids_of(cold)), 0)


def test_the_same_request_again_computes_nothing_and_ends_in_the_same_bytes(material, tmp_path: Path):
    config = configured(material, tmp_path / "store", "target.jsonl")
    first = run_here(config, tmp_path / "first")
    again = run_here(config, tmp_path / "again")
    assert result_of(again) == result_of(first)
    assert counts_of(again) == (0, sum(counts_of(first)))
    events = (
        [json.loads(line) for line in again.events_file.read_text().splitlines()] if again.events_file.exists() else []
    )
    assert all(event.get("reused", 0) == event["samples"] for event in events if event["event"] == "progressed")
    assert holdings(tmp_path / "store")[0].rows == len(ids_of(first))


def test_exact_runs_fill_the_store_and_take_nothing(material, tmp_path: Path):
    exact = ["gradients.scoring=exact"]
    bare = run_here(configured(material, None, "target.jsonl", *exact), tmp_path / "bare")
    for name in ("first", "second"):
        run = run_here(configured(material, tmp_path / "store", "target.jsonl", *exact), tmp_path / name)
        assert result_of(run) == result_of(bare)
        assert counts_of(run) == counts_of(bare)
    assert holdings(tmp_path / "store")[0].rows == len(ids_of(bare))


def test_a_resumed_run_takes_what_it_would_have_taken(material, tmp_path: Path):
    import torch

    store = tmp_path / "store"
    wanted = ("search.allocator.kind=ucb_beta",)
    run_here(configured(material, store, "target.jsonl"), tmp_path / "first")
    whole = run_here(
        configured(material, store, "other.jsonl", *wanted, f"store.path={copy_of(store)}"), tmp_path / "whole"
    )
    config = configured(material, store, "other.jsonl", *wanted)
    folder, worker = RunFolder(tmp_path / "parts"), Worker(config, torch.device("cpu"))
    for attempt in range(100):
        prepare(config, folder, lambda what, rows: None)
        run = SelectionRun(config, folder, lambda event: None)
        run.workers = (worker.info(),)
        left = 15
        try:
            for stage in run.stages():
                while (job := stage.ask()) is not None:
                    if not (left := left - 1):
                        raise InterruptedError
                    stage.tell(job, worker.work(job.task, lambda run=run: run.bank))
            break
        except InterruptedError:
            if attempt == 1:  # others fill the store meanwhile
                run_here(
                    configured(material, store, "target.jsonl", "search.allocator.kind=exhaustive"),
                    tmp_path / "meanwhile",
                )
        finally:
            run.close()
    assert folder.finished
    assert attempt > 1
    assert result_of(folder) == result_of(whole)


def copy_of(store: Path) -> Path:
    import shutil

    return Path(shutil.copytree(store, store.with_name("copy")))


def test_damaged_and_vanished_sketches_are_computed_anew(material, tmp_path: Path):
    alone = "gradients.batch_tokens=1"
    config = configured(material, tmp_path / "store", "target.jsonl", alone)
    first = run_here(config, tmp_path / "first")
    matrix = next((tmp_path / "store").glob("*/*.npy"))
    raw = bytearray(matrix.read_bytes())
    raw[500] ^= 1
    matrix.write_bytes(raw)
    again = run_here(config, tmp_path / "again")
    assert result_of(again) == result_of(first)
    assert counts_of(again)[0] == 1
    evict(tmp_path / "store", 0)
    assert counts_of(run_here(config, tmp_path / "empty"))[1] == 0


def test_another_checkpoint_takes_nothing_and_a_changed_one_does_not_resume(material, tmp_path: Path):
    import shutil

    base = Path(shutil.copytree(material["model"]["base"], tmp_path / "model"))
    store = tmp_path / "store"
    config = configured(material, store, "target.jsonl", f"model.base={base}")
    run_here(config, tmp_path / "first")
    assert (
        counts_of(run_here(configured(material, store, "target.jsonl"), tmp_path / "same"))[0] == 0
    )  # a copy has the same content
    assert counts_of(run_here(configured(material, store, "target.jsonl", "model.lora.r=4"), tmp_path / "r4"))[1] == 0
    folder = RunFolder(tmp_path / "changed")
    prepare(config, folder, lambda what, rows: None)
    run_in_process(config, folder, lambda event: None)
    folder.summary_file.unlink()
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    os.utime(base / "model.safetensors", (1, 1))
    with pytest.raises(RunFolderError, match="give the checkpoint"):
        run_in_process(config, folder, lambda event: None)


def test_the_store_stays_within_its_bound(material, tmp_path: Path):
    config = configured(material, tmp_path / "store", "target.jsonl", "store.max_gib=1e-5")
    run_here(config, tmp_path / "first")
    assert shard_files(tmp_path / "store") == []


def test_a_store_that_cannot_be_used_is_refused_before_any_work(material, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="give a folder that can be written"):
        run_here(configured(material, tmp_path / "file", "target.jsonl"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_shortlist_answers_from_the_store_and_scores_the_best_exactly(material, tmp_path: Path):
    store = tmp_path / "store"
    whole = ("search.allocator.kind=exhaustive", "audit.samples=auto")
    run_here(configured(material, store, "target.jsonl", *whole), tmp_path / "first")
    asked = configured(material, store, "other.jsonl", "audit.samples=auto", "gradients.shortlist=3")
    asked = asked.model_copy(update={"gradients": asked.gradients.model_copy(update={"scoring": "shortlist"})})
    folder = run_here(asked, tmp_path / "later")
    exact = run_here(configured(material, None, "other.jsonl", *whole, "gradients.scoring=exact"), tmp_path / "exact")
    assert stages_of(folder) == {"stored": (0, 120), "shortlist": (18, 0)}
    table, truth = pq.read_table(folder.scores_file).to_pydict(), pq.read_table(exact.scores_file).to_pydict()
    assert len(table["id"]) == 120
    assert sum(table["exact"]) == 18
    assert {name for name, stage in zip(table["id"], table["stage"], strict=True) if stage == "shortlist"} == {
        name for name, flag in zip(table["id"], table["exact"], strict=True) if flag
    }
    influence = dict(zip(truth["id"], truth["influence"], strict=True))
    chosen = [json.loads(line)["clusterucb"] for line in folder.selection_file.read_text().splitlines()]
    assert all(row["exact"] for row in chosen)
    np.testing.assert_allclose(
        [row["influence"] for row in chosen], [influence[row["id"]] for row in chosen], rtol=1e-4
    )
    summary = json.loads(folder.summary_file.read_text())
    assert summary["gradients"] == {"computed": 18, "reused": 102, "exact": 18}


def test_shortlist_searches_what_the_store_lacks(material, tmp_path: Path):
    store = tmp_path / "store"
    run_here(configured(material, store, "target.jsonl"), tmp_path / "first")
    stored = holdings(store)[0].rows
    config = configured(material, store, "other.jsonl", "search.allocator.kind=ucb_beta")
    config = config.model_copy(update={"gradients": config.gradients.model_copy(update={"scoring": "shortlist"})})
    folder = run_here(config, tmp_path / "later")
    stages = stages_of(folder)
    assert stages["stored"] == (0, stored)
    assert sum(stages["search"]) == 48
    assert stages["search"][0] > 0
    assert stages["shortlist"][0] <= 12
    table = pq.read_table(folder.scores_file).to_pydict()
    assert sum(table["exact"]) == stages["search"][0] + stages["shortlist"][0] + stages["audit"][0]


def test_shortlist_needs_a_store(material):
    with pytest.raises(ClusterUCBError, match="which ranks by kept sketches"):
        configured(material, None, "target.jsonl", "gradients.scoring=shortlist")
