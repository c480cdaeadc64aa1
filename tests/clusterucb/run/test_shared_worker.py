"""A worker that one run has used answers the next as a fresh one does, and shows it nothing of the last."""

from pathlib import Path

import numpy as np
import pytest
import torch
from selection_cases import config_of, result_of, run_here, small_selection, write_rows

from clusterucb.config import RunConfig
from clusterucb.run.checkpoint_key import checkpoint_key
from clusterucb.run.pipeline import SelectionRun
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.worker import Worker


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[RunConfig]:
    """Four runs of one checkpoint: other targets, other features, and a proxy beside them."""
    folder = tmp_path_factory.mktemp("material")
    settings = small_selection(folder, rows=48)
    birds = {"path": str(write_rows(folder / "birds.jsonl", 6, ["birds"], seed=3))}
    base = settings["model"]["base"]
    proxy = {"kind": "proxy", "base": base, "dim": 64, "seed": 3}
    return [
        config_of(settings),
        config_of(settings | {"target": birds, "features": {"kind": "hidden", "layer": 1}}),
        config_of(settings | {"features": proxy}),
        config_of(settings | {"target": birds, "features": proxy}),
    ]


def run_with(worker: Worker, config: RunConfig, folder: RunFolder) -> None:
    run = SelectionRun(config, folder, lambda event: None)
    for stage in run.stages():
        while (job := stage.ask()) is not None:
            stage.tell(job, worker.work(job.task, lambda: run.bank))
    run.close()


def test_the_bytes_do_not_tell_what_the_worker_did_before(configs: list[RunConfig], tmp_path: Path):
    worker = Worker(configs[0], torch.device("cpu"))
    for number, config in enumerate(configs):
        worker.take_on(config.features)
        folder = RunFolder(tmp_path / f"shared{number}")
        prepare(config, folder, lambda what, rows: None)
        run_with(worker, config, folder)
        assert result_of(folder) == result_of(run_here(config, tmp_path / f"alone{number}"))


def test_a_worker_that_turns_to_another_run_forgets_a_limit_of_memory(configs: list[RunConfig], tmp_path: Path):
    config = configs[0]
    folder = RunFolder(tmp_path / "run")
    prepared = prepare(config, folder, lambda what, rows: None)
    batch = prepared.target.batch(np.flatnonzero(prepared.target.usable_N))
    worker = Worker(config, torch.device("cpu"))
    whole = worker._engine.target(batch, "").sums
    worker._engine._memory.padded_tokens = 8
    pieces = worker._engine.target(batch, "").sums
    worker.take_on(config.features)
    again = worker._engine.target(batch, "").sums
    assert all(np.array_equal(whole[name], again[name]) for name in whole)
    assert worker._engine._memory.padded_tokens is None
    assert any(not np.array_equal(whole[name], pieces[name]) for name in whole), "the limit settles the last bits"


def test_only_runs_of_the_same_checkpoint_and_gradients_share(tmp_path: Path):
    settings = small_selection(tmp_path)
    config = config_of(settings)
    alike = ("workers.count=1", "search.budget=0.2", "tokens.max_length=64")
    other = ("seed=1", "gradients.sketch.dim=256", "model.lora.r=4", "gradients.batch_tokens=64")
    for override in alike:
        assert checkpoint_key(config_of(settings, override)) == checkpoint_key(config), override
    for override in other:
        assert checkpoint_key(config_of(settings, override)) != checkpoint_key(config), override
    key = checkpoint_key(config)
    weights = next(Path(config.model.base).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    assert checkpoint_key(config) != key, "weights that were replaced in place are another checkpoint"
