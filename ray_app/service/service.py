"""The service's one actor: it takes requests, has runs wait in a fair line, drives as many at once as it may.

Invariants: nothing is known here that is not in the folders, so that its next life, wherever that is, goes on with
every run that waits or runs; a run is durable before its request is answered; only the holder of the folder's lease
takes requests and drives runs, so that two services on one folder never do anything twice.

Replicas load this class to call it, so that what brings torch is imported where it is used, here and below.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorClass

from actors.revival import begin_by_itself
from clusterucb.config import ServiceConfig
from clusterucb.errors import ClusterUCBError, RunFolderError
from clusterucb.run.lease import Lease
from clusterucb.run.run_folder import RunFolder
from ray_app.service.admission import Admission, digest_of
from ray_app.service.calls import tried
from ray_app.service.companions import Companions
from ray_app.service.fair_queue import FairQueue
from ray_app.service.ledger import Asked, End, Ended, Ledger, work_of
from ray_app.service.metrics import ServiceMetrics
from ray_app.service.names import keeper_name
from ray_app.service.records import Plan, Readiness, RunRecord, Scores, settings_of
from ray_app.service.refusals import Busy, InvalidRequest, QueueFull, Unavailable
from ray_app.service.requests import InlineTarget, ScoreRequest, SelectionRequest
from ray_app.service.resolution import resolve_scoring, resolve_selection, target_name
from ray_app.service.runner import Runner
from ray_app.service.shelf import Shelf
from ray_app.service.upkeep import keep_lease, measure, sweep

_LEASE_S = 30.0
_LEASE_AGAIN_S = 2.0
_ANSWERS_AT_ONCE = 4
_log = logging.getLogger(__name__)


class Service:
    """Keeps the queue of the runs below one folder."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._folder = Path(config.folder).resolve()
        self._ledger = Ledger(self._folder)
        self._queue = FairQueue()
        self._admission = Admission(self._ledger, self._queue)
        self._companions = Companions(keeper_name(config))
        self._metrics = ServiceMetrics()
        self._runner = Runner(self._ledger, lambda: self._config, self._companions, self._metrics)
        self._lease: Lease | None = None
        self._opening: asyncio.Task[None] | None = None
        self._open = asyncio.Event()
        self._submitting = asyncio.Lock()
        self._answering = 0
        self._tasks: set[asyncio.Task[None]] = set()
        myself = ray.get_runtime_context().current_actor
        begin_by_itself(lambda: myself.start.remote(), lambda: self._opening is not None)

    @ray.method
    async def start(self) -> None:
        """Take over what the folder holds, or join whoever is at it; requests are refused until that is done."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._take_over())
        await asyncio.shield(self._opening)

    @ray.method
    async def configure(self, config: ServiceConfig) -> None:
        """Go by another configuration from the next request on."""
        self._config = config
        self._pump()

    @ray.method
    async def submit(
        self, run_id: str, owner: str, request: SelectionRequest, key: str | None
    ) -> tuple[RunRecord, bool]:
        """Queue a selection; asked again with the same `run_id`, as after a lost answer, it is the same run."""
        self._check_open()
        config = await asyncio.to_thread(resolve_selection, request, owner, self._config, self._shelf)
        digest = digest_of(request)
        async with self._submitting:
            known = self._admission.known(run_id, owner, digest, key)
            if known is not None:
                return await self._record(known), known != run_id
            try:
                self._admission.check_room(owner, self._config.limits)
            except QueueFull:
                self._metrics.refused()
                raise
            asked = Asked(
                id=run_id,
                owner=owner,
                created=datetime.now(UTC),
                pool=request.pool,
                checkpoint=request.checkpoint,
                target=target_name(request, config),
                label=request.label,
                settings=settings_of(request),
                key=key,
                request=digest,
                work=await asyncio.to_thread(work_of, config),
                config=config,
            )
            await asyncio.to_thread(self._ledger.ask, asked)
            self._admission.remember(asked)
        self._metrics.asked()
        if not await self._runner.answered_already(asked):
            self._queue.add(owner, run_id)
            self._pump()
        return await self._record(run_id), False

    @ray.method
    async def cancel(self, run_id: str) -> None:
        """Ask a run to stop; one that waits is over at once. Raises NotFound."""
        self._check_open()
        asked = await asyncio.to_thread(self._ledger.asked, run_id)
        if await asyncio.to_thread(self._ledger.ended, run_id) is not None:
            return
        await asyncio.to_thread(self._ledger.stop_file(run_id).touch)
        if self._queue.remove(asked.owner, run_id):
            await self._runner.end(asked, End(status="cancelled"))

    @ray.method
    async def plan(self, owner: str, request: SelectionRequest) -> Plan:
        """Say what a selection would cost. Raises InvalidRequest, Busy."""
        config = await asyncio.to_thread(resolve_selection, request, owner, self._config, self._shelf)
        with _Turn(self):
            try:
                return await tried(lambda: self._companions.preparer().plan.remote(config))
            except ClusterUCBError as error:
                raise InvalidRequest(str(error)) from None

    @ray.method
    async def score(self, run_id: str, owner: str, request: ScoreRequest) -> Scores:
        """Score samples in a folder that is gone afterwards. Raises InvalidRequest, Busy."""
        self._check_open()
        rows = await asyncio.to_thread(self._shelf.keep_rows, InlineTarget(rows=request.rows))
        config = resolve_scoring(request, rows.path, owner, self._config, self._shelf)
        there = self._folder / "scores" / run_id
        folder = RunFolder.open(there / run_id)
        there.mkdir(parents=True, exist_ok=True)
        with _Turn(self):
            try:
                end = await self._runner.drive(config, folder, there / "stop")
                if end.status != "finished":
                    raise InvalidRequest(end.error or "the scoring was stopped")
                return await tried(lambda: self._companions.preparer().scores.remote(folder.location))
            finally:
                (there / "stop").touch()  # for a coordinator whose caller is gone
                await asyncio.to_thread(shutil.rmtree, there, True)

    @ray.method
    async def order(self) -> tuple[str, ...]:
        """Return the runs that wait, the next one first."""
        return tuple(self._queue.order())

    @ray.method
    async def ready(self) -> Readiness:
        """Say whether requests are taken."""
        if not self._open.is_set():
            return Readiness(ready=False, reason="the service is taking its runs over")
        return Readiness(ready=True, queued=len(self._queue), running=self._queue.running)

    @ray.method
    async def pid(self) -> int:
        """Return this process's id."""
        return os.getpid()

    @ray.method
    async def close(self) -> None:
        """Stop runs and workers, and let go of the folder; the next service on it goes on with them."""
        self._open.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._companions.end()
        if self._lease is not None:
            await asyncio.to_thread(self._lease.release)

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self._folder / "targets", self._config.limits)

    async def _take_over(self) -> None:
        """Get the folder's lease, learn every run from its files, and go on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._companions.keeper()
        self._companions.preparer()
        while self._lease is None:
            try:
                place = RunFolder.open(self._folder / "service")
                self._lease = await asyncio.to_thread(Lease.acquire, place, "service", _LEASE_S)
            except RunFolderError as error:
                _log.info("waiting for the folder: %s", error)
                await asyncio.sleep(_LEASE_AGAIN_S)
        self._spawn(keep_lease(self._lease, _LEASE_S))
        waiting, going = list[Asked](), list[Asked]()
        for asked, ended, began in await asyncio.to_thread(self._survey):
            self._admission.remember(asked)
            if ended is not None:
                self._runner.note(asked, ended)
            else:
                (going if began else waiting).append(asked)
        for asked in going:
            self._queue.began(asked.owner)
            self._spawn(self._run(asked))
        for asked in waiting:
            if self._ledger.stop_file(asked.id).exists():
                await self._runner.end(asked, End(status="cancelled"))
            else:
                self._queue.add(asked.owner, asked.id)
        self._open.set()
        self._spawn(sweep(self._ledger, lambda: self._config.retention, self._forget))
        self._spawn(measure(self._metrics, self._queue, self._companions))
        self._pump()

    def _survey(self) -> list[tuple[Asked, Ended | None, bool]]:
        shutil.rmtree(self._folder / "scores", ignore_errors=True)  # who waited for them is gone
        return [
            (asked, self._ledger.ended(asked.id), self._ledger.began(asked.id) is not None)
            for asked in self._ledger.all()
        ]

    def _forget(self, asked: Asked) -> None:
        self._runner.forget(asked)
        self._admission.forget(asked)

    def _check_open(self) -> None:
        if not self._open.is_set():
            raise Unavailable("the service is taking its runs over: try again in a moment", 5.0)

    async def _record(self, run_id: str) -> RunRecord:
        record = await asyncio.to_thread(self._ledger.record, run_id)
        if record.status != "queued":
            return record
        order = self._queue.order()
        return record.model_copy(update={"queue_position": order.index(run_id) if run_id in order else 0})

    def _pump(self) -> None:
        """Start runs as long as there may be more."""
        while self._open.is_set() and self._queue.running < self._config.limits.active_runs:
            run_id = self._queue.take()
            if run_id is None:
                return
            self._spawn(self._run(self._ledger.asked(run_id)))

    async def _run(self, asked: Asked) -> None:
        """Bring a run to its end, and start the next."""
        try:
            await self._runner.carry_out(asked)
        finally:
            self._queue.done(asked.owner)
            self._pump()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Turn:
    """One of the plans and scores that are answered at once."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def __enter__(self) -> None:
        if self._service._answering >= _ANSWERS_AT_ONCE:
            raise Busy(f"{_ANSWERS_AT_ONCE} plans and scores are being worked out: try again in a moment", 5.0)
        self._service._answering += 1

    def __exit__(self, *_: object) -> None:
        self._service._answering -= 1


ServiceActor: ActorClass[Service] = ray.remote(Service)
