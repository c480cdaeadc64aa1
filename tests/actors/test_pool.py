"""The pool on a real Ray: workers that hang or die are replaced, those that only die are given up."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import ray
from ray import cloudpickle
from ray.actor import ActorProxy
from small_ray import small_ray

from actors.gradient_worker import GradientWorker
from actors.lanes import Dispatcher, LossKind
from actors.pool import WorkerPool
from actors.remote_worker import WorkerProcess
from actors.resources import WorkerSize
from clusterucb.config import Workers
from clusterucb.errors import ResourceError
from clusterucb.run.tasks import Job
from clusterucb.types import WorkerInfo

pytestmark = pytest.mark.ray
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # worker processes cannot import this file


class Frail:
    """Its n-th life loads as the n-th word says: it freezes, dies or works."""

    def __init__(self, lives: Path, words: tuple[str, ...]) -> None:
        with lives.open("a") as file:
            file.write(".")
        self._word = words[min(lives.stat().st_size, len(words)) - 1]

    @ray.method(concurrency_group="watch")
    def ping(self) -> None: ...

    @ray.method(concurrency_group="watch")
    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def load(self) -> WorkerInfo:
        if self._word != "works":
            os.kill(os.getpid(), signal.SIGSTOP if self._word == "freezes" else signal.SIGKILL)
            time.sleep(600)  # the signal may reach this thread a little later than another
        return WorkerInfo("frail", (), 0.0, 0.0)


class Heard:
    """Notices, kept."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def ready(self, index: int, info: WorkerInfo) -> None:
        self.said.append("ready")

    def lost(self, index: int, reason: str, kind: LossKind) -> None:
        self.said.append(kind)

    def retired(self, index: int, deaths: int) -> None:
        self.said.append(f"retired after {deaths}")

    def suspected(self, job: Job) -> None: ...

    def idle(self) -> None: ...

    def load(self, jobs: int, workers: int, busy: int) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    with small_ray(1):
        yield


class FrailProcesses:
    """Starts one life after the other."""

    def __init__(self, lives: Path, words: tuple[str, ...]) -> None:
        self._arguments = lives, words

    async def take(self) -> WorkerProcess:
        frail: Any = ray.remote(concurrency_groups={"watch": 1})(Frail)
        actor = frail.options(num_cpus=0).remote(*self._arguments)
        return WorkerProcess(cast(ActorProxy[GradientWorker], actor), lambda: ray.kill(actor))


def pool_of(lives: Path, words: tuple[str, ...], heard: Heard) -> WorkerPool:
    wanted = Workers(count=1, num_cpus=0, deaths=2, heartbeat_timeout_s=5)
    size = WorkerSize(num_gpus=0, num_cpus=0, memory=0)
    return WorkerPool(wanted, size, FrailProcesses(lives, words), Dispatcher(1, 1, heard), heard)


async def test_a_worker_that_freezes_while_it_loads_is_replaced(tmp_path: Path):
    heard = Heard()
    pool = pool_of(tmp_path / "lives", ("freezes", "works"), heard)
    keeping = asyncio.create_task(pool.run())
    ready = asyncio.create_task(pool.ready.wait())
    async with asyncio.timeout(120):
        await asyncio.wait([ready, keeping], return_when=asyncio.FIRST_COMPLETED)
    if keeping.done():  # the pool gave up: say why
        ready.cancel()
        await keeping
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert heard.said == ["hung", "ready"]


async def test_a_worker_that_only_dies_is_given_up(tmp_path: Path):
    heard = Heard()
    lives = tmp_path / "lives"
    async with asyncio.timeout(120):
        with pytest.raises(ResourceError, match=r"all 1 workers died 2 times in a row"):
            await pool_of(lives, ("dies",), heard).run()
    assert lives.read_text() == ".."
    assert heard.said == ["died", "died", "retired after 2"]
