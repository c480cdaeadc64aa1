"""A gang of ranks is one worker: it answers like one, and dies like one."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
from gradient_cases import batch_of
from ray.exceptions import RayActorError
from ray.util import placement_group, placement_group_table
from small_ray import small_ray
from tiny_models import saved, tiny_llama

from actors.gang import Gang, _owner, _remove_orphans
from actors.resources import WorkerSize
from clusterucb.config import RunConfig
from clusterucb.gradients.targets import combine
from clusterucb.run.tasks import ScoreTask, TargetTask
from clusterucb.run.worker import Worker
from clusterucb.settings import build_config

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with small_ray(2):
        yield


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return build_config(
        {
            "pool": {"path": "pool.jsonl"},
            "target": {"path": "target.jsonl"},
            "model": {"base": str(saved(tiny_llama(), tmp_path / "model"))},
            "gradients": {"sketch": {"kind": "none"}},
        },
        (),
    )


def test_a_gang_answers_as_one_worker_and_dies_with_any_rank(cluster: None, config: RunConfig) -> None:
    _remove_orphans.cache_clear()
    placement_group([{"CPU": 1.5}], name=f"{_owner()}earlier")  # as an earlier life of this process would leave
    gang = Gang(config.model_dump_json(), 1, WorkerSize(num_gpus=0.0, num_cpus=0.5, memory=0, shards=2))
    info = ray.get(gang.front.load.remote())
    assert info.device == "2 x cpu"
    assert any("lie on 2 ranks" in note for note in info.notes)
    alone = Worker(config, torch.device("cpu"))
    target = TargetTask(batch_of((9,), seed=1), "sums")
    bank = combine(["sums"], [ray.get(gang.front.work.remote(target, []))])
    task = ScoreTask(batch_of((5, 12, 7)), bank.fingerprint)
    actual = ray.get(gang.front.work.remote(task, [ray.put(bank)]))
    wanted = alone.work(task, lambda: bank)
    np.testing.assert_array_equal(actual.samples_B, wanted.samples_B)
    np.testing.assert_allclose(actual.influence_BS, wanted.influence_BS, rtol=1e-4, atol=1e-4)
    ray.get(gang.front.ping.remote())

    rank_processes()[1].kill()
    with pytest.raises(RayActorError):
        ray.get(gang.front.work.remote(task, [ray.put(bank)]))
    assert until(lambda: not rank_processes())
    gang.end()
    assert until(lambda: ray.available_resources().get("CPU") == 2.0)
    assert all(entry["state"] == "REMOVED" for entry in placement_group_table().values())


def rank_processes() -> list[psutil.Process]:
    """Return the processes of this cluster's ranks."""
    found: list[psutil.Process] = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith("ray::GangRank"):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def until(condition, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()
