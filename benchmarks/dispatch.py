"""How many workers one coordinator keeps busy: workers that only sleep, real dispatch, a real journal.

    python benchmarks/dispatch.py --workers 64 --seconds 0.5 --jobs 3200

The coordinator's side is the real one: pool, dispatcher, stage, fsync'd journal with sketches. A worker is a Ray actor
that sleeps instead of computing and answers with scores of the usual size. Printed: the share of time that workers are
busy against the ideal, the coordinator's CPU time a micro-batch, and the number of workers at which it saturates.
"""

import argparse
import asyncio
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))

import numpy as np
import ray
from ray.actor import ActorProxy

from actors.gradient_worker import GradientWorker
from actors.lanes import Dispatcher, LossKind
from actors.pool import WorkerPool
from actors.remote_worker import WorkerProcess
from actors.resources import WorkerSize
from clusterucb.config import Workers
from clusterucb.run.score_log import ScoreLog
from clusterucb.run.stages import FixedStage
from clusterucb.run.tasks import Answer, Job, ScoreTask
from clusterucb.types import Scores, TokenBatch, WorkerInfo

ROWS, TOKENS, SKETCH = 8, 128, 8192


class Sleeper:
    """A worker whose gradients take exactly so long. It knows no torch: 64 of them fit on a laptop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    @ray.method(concurrency_group="watch")
    def ping(self) -> None: ...

    @ray.method(concurrency_group="watch")
    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def load(self) -> WorkerInfo:
        return WorkerInfo("sleep", (), 0.0, 0.0)

    def work(self, batch: TokenBatch) -> Scores:
        time.sleep(self._seconds)
        ones_B = np.ones(len(batch), np.float32)
        sketch_BD = np.ones((len(batch), SKETCH), np.float16)
        return Scores(batch.samples_B, ones_B[:, None], ones_B, ones_B, sketch_BD, (), self._seconds)


@dataclass(frozen=True)
class Work:
    """Sends a task's batch alone: the task's own class would bring torch into the process."""

    actor: Any

    def remote(self, task: ScoreTask, bank: object) -> "ray.ObjectRef[Answer]":
        return self.actor.work.remote(task.batch)


class Proxy:
    """A sleeper with the methods of a gradient worker."""

    def __init__(self, seconds: float) -> None:
        sleeper: Any = ray.remote(concurrency_groups={"watch": 1})(Sleeper)
        self.actor = sleeper.options(num_cpus=0).remote(seconds)
        self.ping, self.node, self.load = self.actor.ping, self.actor.node, self.actor.load
        self.work = Work(self.actor)


class Quiet:
    """Hears of everything, keeps what is asked for here."""

    def __init__(self, wanted: int) -> None:
        self.all_ready = asyncio.Event()
        self._wanted = wanted

    def ready(self, index: int, info: WorkerInfo) -> None:
        self._wanted -= 1
        if self._wanted == 0:
            self.all_ready.set()

    def lost(self, index: int, reason: str, kind: LossKind) -> None:
        print(f"lost worker {index}: {reason}")

    def retired(self, index: int, deaths: int) -> None: ...

    def suspected(self, job: Job) -> None: ...

    def idle(self) -> None: ...

    def load(self, jobs: int, workers: int, busy: int) -> None: ...


def jobs_of(count: int, log: ScoreLog) -> FixedStage:
    """Micro-batches of the usual size, whose answers go to the journal."""
    offsets = np.arange(ROWS + 1) * TOKENS
    tokens_T, labels_T = np.zeros(ROWS * TOKENS, np.int32), np.ones(ROWS * TOKENS, bool)

    def task(index: int) -> ScoreTask:
        return ScoreTask(TokenBatch(np.arange(index * ROWS, (index + 1) * ROWS), tokens_T, labels_T, offsets), "bank")

    def accept(answers: Sequence[tuple[int, Answer]]) -> None:
        log.append("pool", [(-1, cast(Scores, answer)) for _, answer in answers])

    return FixedStage("pool", [partial(task, index) for index in range(count)], accept)


async def measure(workers: int, seconds: float, jobs: int, in_flight: int, folder: Path) -> tuple[float, float]:
    """Return wall seconds and the coordinator's CPU seconds for the jobs."""
    quiet = Quiet(workers)
    dispatcher = Dispatcher(in_flight, 3, quiet)

    class Proxies:
        async def take(self) -> WorkerProcess:
            proxy = Proxy(seconds)
            return WorkerProcess(cast(ActorProxy[GradientWorker], proxy), lambda: ray.kill(proxy.actor))

    pool = WorkerPool(Workers(count=workers, num_cpus=0), WorkerSize(0, 0, 0), Proxies(), dispatcher, quiet)
    keeping = asyncio.create_task(pool.run())
    await quiet.all_ready.wait()
    log = ScoreLog(folder)
    wall, cpu = time.perf_counter(), time.process_time()
    await dispatcher.drain(jobs_of(jobs, log))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    log.close()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    return wall, cpu


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a micro-batch")
    parser.add_argument("--jobs", type=int, default=3200)
    parser.add_argument("--in-flight", type=int, default=4, help="micro-batches at a worker, as workers.in_flight")
    asked = parser.parse_args()
    ray.init("local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=2, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = asyncio.run(measure(asked.workers, asked.seconds, asked.jobs, asked.in_flight, Path(folder)))
        journal = sum(file.stat().st_size for file in Path(folder).iterdir())
    ray.shutdown()
    ideal = asked.jobs * asked.seconds / asked.workers
    each = cpu / asked.jobs
    print(f"{asked.workers} workers, {asked.jobs} micro-batches of {asked.seconds} s, {ROWS} rows, {SKETCH} sketch")
    print(f"wall {wall:.1f} s, ideal {ideal:.1f} s: workers busy {ideal / wall:.1%}; {asked.jobs / wall:.0f} a second")
    print(f"coordinator: {each * 1e3:.2f} ms of CPU a micro-batch; journal {journal / 2**20:.0f} MiB")
    print(
        f"it would saturate one core at {1 / each:.0f} micro-batches a second: {asked.seconds / each:.0f} such workers"
    )


if __name__ == "__main__":
    main()
