"""Warm workers on a real Ray: shared by runs, taken back from the dead, never anybody's bytes."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from selection_cases import config_of, result_of, run_here, small_selection, write_rows
from small_ray import small_ray

from actors.coordinator import CoordinatorActor
from actors.keeper import KeeperActor
from actors.lending import Patience
from clusterucb.config import RunConfig
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    with small_ray(1):
        yield


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> list[RunConfig]:
    """Two targets on one checkpoint, and a run of another checkpoint; each worker fills half of the cluster."""
    folder = tmp_path_factory.mktemp("material")
    settings = small_selection(folder, rows=400) | {"workers": {"num_cpus": 0.5, "count": 2}}
    birds = {"path": str(write_rows(folder / "birds.jsonl", 6, ["birds"], seed=3))}
    return [config_of(settings), config_of(settings | {"target": birds}), config_of(settings | {"seed": 5})]


@pytest.fixture(scope="module")
def expected(configs: list[RunConfig], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, bytes]]:
    folder = tmp_path_factory.mktemp("expected")
    return [result_of(run_here(config, folder / str(number))) for number, config in enumerate(configs)]


@pytest.fixture(scope="module")
def keeper() -> Iterator[str]:
    name = "keeper-of-the-test"
    actor: Any = KeeperActor.options(
        name=name, namespace="clusterucb", max_restarts=-1, num_cpus=0, max_concurrency=1000
    ).remote(Patience(turn_s=1, switch_s=2))
    yield name
    ray.kill(actor)


def start(config: RunConfig, folder: RunFolder, keeper: str) -> Any:
    prepare(config, folder, lambda what, rows: None)
    return CoordinatorActor.options(num_cpus=0, max_restarts=-1).remote(folder.location, config.workers, keeper=keeper)


def processes(title: str) -> set[int]:
    return {
        each.pid
        for each in psutil.Process().children(recursive=True)
        if each.status() != psutil.STATUS_ZOMBIE and " ".join(each.cmdline()).startswith(f"ray::{title}")
    }


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "waited too long"


async def test_runs_at_once_share_the_workers(configs, expected, keeper: str, tmp_path: Path):
    folders = [RunFolder(tmp_path / str(number)) for number in range(2)]
    runs = [start(config, folder, keeper) for config, folder in zip(configs[:2], folders, strict=True)]
    outcomes = await asyncio.gather(*(run.run.remote() for run in runs))
    assert [outcome.status for outcome in outcomes] == ["finished"] * 2
    assert [result_of(folder) for folder in folders] == expected[:2]
    assert len(processes("GradientWorker")) == 2, "they stay, and they are no more than fit"
    ready = [line for folder in folders for line in folder.events_file.read_text().splitlines() if "_ready" in line]
    assert len(ready) >= 2


async def test_the_workers_of_a_dead_run_go_to_others(configs, expected, keeper: str, tmp_path: Path):
    dying = start(configs[0], RunFolder(tmp_path / "dying"), keeper)
    dying.run.remote()
    actor: Any = ray.get_actor(keeper, namespace="clusterucb")
    await until(lambda: ray.get(actor.counts.remote()).lent == 2)
    ray.kill(dying)
    folder = RunFolder(tmp_path / "next")
    await start(configs[0], folder, keeper).run.remote()
    assert result_of(folder) == expected[0]


async def test_a_run_outlives_the_keeper_and_another_checkpoint_takes_its_workers_room(
    configs, expected, keeper: str, tmp_path: Path
):
    folder = RunFolder(tmp_path / "run")
    run = start(configs[1], folder, keeper)
    running = asyncio.wrap_future(run.run.remote().future())
    await until((folder.state / "scores.journal").exists)
    (pid,) = processes("Keeper")
    psutil.Process(pid).send_signal(signal.SIGKILL)
    assert (await running).status == "finished"
    assert result_of(folder) == expected[1]
    other = RunFolder(tmp_path / "other")
    await start(configs[2], other, keeper).run.remote()
    assert result_of(other) == expected[2]
    assert len(processes("GradientWorker")) <= 2
