"""The bandit actor: one async coordinator a run, which owns or borrows the workers and drives the stages.

Invariants: only it writes the run folder while it lives; killing it at any moment loses at most the micro-batches in
flight; Ray starts it again and it goes on by itself; `run` may be called again and joins the run in progress; when the
run is over and nobody watches, it ends itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import ray

from actors.keeper import KeptWorkers
from actors.lanes import Dispatcher
from actors.logs import name_run
from actors.pool import WorkerPool, living_nodes
from actors.remote_worker import OwnProcesses, Source
from actors.report import Notices, Report
from actors.resources import WorkerSize, check_room, worker_count, worker_size
from actors.revival import begin_by_itself
from clusterucb.config import Store, Workers
from clusterucb.errors import ClusterUCBError
from clusterucb.run.checkpoint_key import checkpoint_key
from clusterucb.run.events import Cancelled, EventLog, Failed, Note, Started
from clusterucb.run.feature_run import FeatureRun
from clusterucb.run.lease import Lease
from clusterucb.run.part_names import STAGES
from clusterucb.run.pipeline import SelectionRun
from clusterucb.run.run_folder import RunFolder
from clusterucb.types import WorkerInfo

Work = Literal["selection", "features"]
"""What is done in a run folder: a whole selection, or the features of its pool alone."""

_LEASE_S = 30.0
_PATIENCE_S = 20.0
_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `error` is the one line for the user."""

    status: Literal["finished", "cancelled", "failed"]
    error: str = ""


class Coordinator:
    """Does the work of one run folder."""

    def __init__(
        self,
        folder: str,
        workers: Workers,
        work: Work = "selection",
        patience_s: float = _PATIENCE_S,
        store: Store | None = None,
        keeper: str | None = None,
    ) -> None:
        """`keeper` names whoever lends this run its workers; without one it starts its own. `patience_s` without
        anybody asking for events mean that nobody watches."""
        self._folder = RunFolder.open(folder)
        name_run(self._folder.name)
        asked = {"workers": workers} | ({} if store is None else {"store": store})
        self._config = self._folder.read_config().model_copy(update=asked)
        self._run_type = SelectionRun if work == "selection" else FeatureRun
        self._task: asyncio.Task[Outcome] | None = None
        self._events: EventLog | None = None
        self._keeper = keeper
        self._patience_s = patience_s
        self._watched = time.monotonic()
        context = ray.get_runtime_context()
        self._restarted = context.was_current_actor_reconstructed
        self._myself = context.current_actor
        if self._restarted:
            begin_by_itself(lambda: self._myself.run.remote(), lambda: self._task is not None)

    @ray.method
    async def run(self) -> Outcome:
        """Run to the end, or join the run in progress; a user's mistake is an outcome, anything else raises."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(lambda _: asyncio.ensure_future(self._leave()))
        return await asyncio.shield(self._task)

    @ray.method
    async def events(self, after: int) -> list[str]:
        """Return the event lines of this coordinator from number `after` on; whoever asks counts as watching."""
        self._watched = time.monotonic()
        return [] if self._events is None else self._events.lines[after:]

    @ray.method
    async def over(self) -> None:
        """Return when this coordinator needs no worker any more."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> Outcome:
        try:
            lease = await asyncio.to_thread(Lease.acquire, self._folder, "coordinator", _LEASE_S)
            try:
                return await self._run_alone(lease)
            finally:
                if lease.held:
                    lease.release()
        except ClusterUCBError as error:
            return Outcome("failed", str(error))

    async def _run_alone(self, lease: Lease) -> Outcome:
        await asyncio.to_thread(self._folder.take_over)
        if not self._restarted:  # a request to stop that a crashed coordinator did not see still holds
            self._folder.clear_cancel()
        events = self._events = EventLog(self._folder.events_file, time.time, self._folder.replica)
        report = Report(self._folder.name, events)
        try:
            outcome = await self._select(lease, report)
            if outcome.status == "cancelled":
                report(Cancelled())
            return outcome
        except Exception as error:  # the edge of the process: recorded, then raised again or turned into an outcome
            if lease.held:  # or another process writes this run by now
                report(Failed(error=str(error)))
            if isinstance(error, ClusterUCBError):
                return Outcome("failed", str(error))
            raise
        finally:
            events.close()

    async def _select(self, lease: Lease, report: Report) -> Outcome:
        wanted, nodes = self._config.workers, living_nodes()
        size = worker_size(wanted, nodes)
        if not self._restarted:  # what fitted once is waited for
            check_room(wanted, size, nodes)
        resumed = (self._folder.state / "target.safetensors").exists()
        workers = worker_count(wanted, size, nodes)
        report(Started(run=self._folder.name, resumed=resumed, workers=workers))
        notices = Notices(report, size)

        def still_ours() -> None:
            if not lease.held:
                lease.renew()  # raises where another process has the run

        dispatcher = Dispatcher(wanted.in_flight, wanted.attempts, notices, still_ours)
        pool = WorkerPool(wanted, size, await self._source(size), dispatcher, notices)
        return await _first_to_end(
            self._work(pool, dispatcher, report),
            self._asked_to_stop(),
            self._deserted(report),
            _forever(pool.run()),
            _forever(_keep(lease)),
        )

    async def _source(self, size: WorkerSize) -> Source:
        if self._keeper is None:
            return OwnProcesses(self._config, size)
        checkpoint = await asyncio.to_thread(checkpoint_key, self._config)
        return KeptWorkers(self._keeper, self._folder.location, checkpoint, self._config, size)

    async def _work(self, pool: WorkerPool, dispatcher: Dispatcher, report: Report) -> Outcome:
        run = self._run_type(self._config, self._folder, report)
        try:
            stages = run.stages()
            await pool.ready.wait()
            run.workers = await _first_infos(pool)
            while (stage := await asyncio.to_thread(next, stages, None)) is not None:
                if stage.name not in ("target", *STAGES):
                    pool.share_bank(run.bank)
                await dispatcher.drain(stage)
                run.workers = await pool.infos()
        finally:
            run.close()
        return Outcome("finished")

    async def _asked_to_stop(self) -> Outcome:
        """Wait for a request to stop, which may come from any process that reaches the folder."""
        while True:
            if await asyncio.to_thread(lambda: self._folder.cancel_requested):
                return Outcome("cancelled")
            await asyncio.sleep(self._folder.poll_s)

    async def _deserted(self, report: Report) -> Outcome:
        """Stop where the driver is gone and the configuration says so."""
        await self._unwatched()
        if self._config.workers.on_driver_death == "continue":
            await asyncio.Event().wait()
        report(Note(text="nobody watches this run any more: it stops, as workers.on_driver_death says"))
        return Outcome("cancelled")

    async def _leave(self) -> None:
        """End this process once the run is over and nobody wants to hear of it; its folder is what lasts."""
        await asyncio.sleep(_GRACE_S)  # whoever waits for the outcome takes it
        await self._unwatched()
        ray.kill(self._myself)

    async def _unwatched(self) -> None:
        """Return once nobody has asked for events for a while."""
        while True:
            left_s = self._watched + self._patience_s - time.monotonic()
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)


async def _first_infos(pool: WorkerPool) -> list[WorkerInfo]:
    """Return what the workers are, as soon as there is one; the one that was ready may be gone."""
    while True:
        if infos := await pool.infos():
            return infos
        await asyncio.sleep(_GRACE_S)


async def _first_to_end(*works: Coroutine[Any, Any, Outcome]) -> Outcome:
    """Do several things at once until one ends, and let its end be theirs; of several, that of the first named."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _keep(lease: Lease) -> None:
    """Renew the lease for as long as the run goes on; raises RunFolderError where another process has taken it."""
    while True:
        await asyncio.sleep(_LEASE_S / 3)
        await asyncio.to_thread(lease.renew)


async def _forever(work: Awaitable[None]) -> Outcome:
    """Do what ends only by failing."""
    await work
    raise AssertionError("what was to go on for ever ended")


CoordinatorActor = ray.remote(Coordinator)
