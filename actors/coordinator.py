"""The bandit actor: one async coordinator a run, which owns the workers and drives the stages.

Invariants: only it writes the run folder while it lives (a file lock says so); killing it at any moment loses at
most the micro-batches in flight; `run` may be called again and joins the run in progress.
"""

import asyncio
import fcntl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import ray

from actors.lanes import Dispatcher, WorkerLost
from actors.pool import WorkerPool
from actors.resources import plan_workers
from clusterucb.config import Workers
from clusterucb.errors import ClusterUCBError, RunFolderError
from clusterucb.run.events import Cancelled, EventLog, Failed, Started, WorkerReady
from clusterucb.run.events import WorkerLost as WorkerLostEvent
from clusterucb.run.feature_run import FeatureRun
from clusterucb.run.pipeline import SelectionRun
from clusterucb.run.run_folder import RunFolder
from clusterucb.types import WorkerInfo

Work = Literal["selection", "features"]
"""What is done in a run folder: a whole selection, or the features of its pool alone."""

_LOCK_WAIT_S = 15.0
_CANCEL_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `error` is the one line for the user."""

    status: Literal["finished", "cancelled", "failed"]
    error: str = ""


class Coordinator:
    """Does the work of one run folder."""

    def __init__(self, folder: str, workers: Workers, work: Work = "selection") -> None:
        self._folder = RunFolder(Path(folder))
        self._config = self._folder.read_config().model_copy(update={"workers": workers})
        self._run_type = SelectionRun if work == "selection" else FeatureRun
        self._task: asyncio.Task[Outcome] | None = None
        self._events: EventLog | None = None

    @ray.method
    async def run(self) -> Outcome:
        """Run to the end, or join the run in progress; a user's mistake is an outcome, anything else raises."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(self._task)

    @ray.method
    async def events(self, after: int) -> list[str]:
        """Return the event lines of this coordinator from number `after` on."""
        return [] if self._events is None else self._events.lines[after:]

    async def _run(self) -> Outcome:
        try:
            with await asyncio.to_thread(_Claim, self._folder):
                return await self._run_claimed()
        except ClusterUCBError as error:
            return Outcome("failed", str(error))

    async def _run_claimed(self) -> Outcome:
        self._folder.cancel_file.unlink(missing_ok=True)
        events = self._events = EventLog(self._folder.events_file, time.time)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        try:
            plan = plan_workers(self._config.workers, nodes)
            resumed = (self._folder.state / "target.safetensors").exists()
            events(Started(run=self._folder.path.name, resumed=resumed, workers=plan.count))
            pool = WorkerPool(self._config, plan)
            try:
                await self._select(pool, events)
            finally:
                pool.stop()
            return Outcome("finished")
        except asyncio.CancelledError:
            events(Cancelled())
            return Outcome("cancelled")
        except Exception as error:  # the edge of the process: recorded, then raised again or turned into an outcome
            events(Failed(error=str(error)))
            if isinstance(error, ClusterUCBError):
                return Outcome("failed", str(error))
            raise
        finally:
            events.close()

    async def _select(self, pool: WorkerPool, events: EventLog) -> None:
        def ready(index: int, info: WorkerInfo) -> None:
            events(WorkerReady(worker=index, device=info.device, notes=info.notes if index == 0 else ()))

        def lost(index: int, error: WorkerLost) -> None:
            events(WorkerLostEvent(worker=index, reason=str(error)))

        wanted = self._config.workers
        dispatcher = Dispatcher(pool.workers, wanted.in_flight, wanted.attempts, lost)
        loading = asyncio.create_task(pool.load(ready))
        watching = asyncio.create_task(self._watch_for_cancel(asyncio.current_task()))
        run = self._run_type(self._config, self._folder, events)
        try:
            stages = run.stages()
            await loading
            while (stage := await asyncio.to_thread(next, stages, None)) is not None:
                if stage.name not in ("target", "features"):
                    pool.share_bank(run.bank)
                await dispatcher.drain(stage)
                run.workers = await pool.infos()
        finally:
            loading.cancel()
            watching.cancel()
            run.close()

    async def _watch_for_cancel(self, task: asyncio.Task[Outcome] | None) -> None:
        assert task is not None
        while True:
            await asyncio.sleep(_CANCEL_POLL_S)
            if self._folder.cancel_file.exists():
                task.cancel()
                return


class _Claim:
    """An exclusive lock on the run folder; the system drops it when the process ends, however it ends."""

    def __init__(self, folder: RunFolder) -> None:
        self._file = folder.lock_file.open("w")
        deadline = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunFolderError(
                        f"another process is running in {folder.path}: watch it with `clusterucb watch`, stop it with "
                        f"`clusterucb cancel`, or give another folder with --out"
                    ) from None
                time.sleep(0.2)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._file.close()


CoordinatorActor = ray.remote(Coordinator)
