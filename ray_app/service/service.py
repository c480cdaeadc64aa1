"""The service's one actor: it takes requests, has runs wait in a fair line, drives as many at once as it may.

Invariants: nothing is known here that is not in the folders, so that its next life, wherever that is, goes on with
every run that waits or runs; a run is durable before its request is answered; only the holder of the folder's lease
takes requests and drives runs, so that two services on one folder never do anything twice.

Replicas load this class to call it, so that what brings torch is imported where it is used.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ray
from ray.actor import ActorClass, ActorHandle, ActorProxy
from ray.exceptions import RayActorError

from actors.lending import Patience
from actors.names import NAMESPACE
from clusterucb.config import RunConfig, ServiceConfig, Store
from clusterucb.errors import ClusterUCBError, RunFolderError
from clusterucb.run.lease import Lease
from clusterucb.run.run_folder import RunFolder
from ray_app.service.calls import tried
from ray_app.service.fair_queue import FairQueue
from ray_app.service.ledger import Asked, End, Ended, Ledger, work_of
from ray_app.service.metrics import ServiceMetrics
from ray_app.service.names import keeper_name
from ray_app.service.records import Plan, Readiness, RunRecord, Scores, settings_of
from ray_app.service.refusals import Busy, InvalidRequest, KeyReused, NotFound, QueueFull, Unavailable
from ray_app.service.requests import InlineTarget, ScoreRequest, SelectionRequest
from ray_app.service.resolution import resolve_scoring, resolve_selection, target_name
from ray_app.service.shelf import Shelf
from ray_app.service.twins import link_results

if TYPE_CHECKING:
    from actors.keeper import Keeper
    from ray_app.service.preparer import Preparer

_LEASE_S = 30.0
_LEASE_AGAIN_S = 2.0
_SWEEP_S = 600.0
_MEASURE_S = 5.0
_ANSWERS_AT_ONCE = 4
_log = logging.getLogger(__name__)


class Service:
    """Keeps the queue of the runs below one folder."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._folder = Path(config.folder).resolve()
        self._ledger = Ledger(self._folder)
        self._queue = FairQueue()
        self._keys: dict[tuple[str, str], tuple[str, str]] = {}
        self._finished: dict[str, str] = {}
        self._lease: Lease | None = None
        self._opening: asyncio.Task[None] | None = None
        self._open = asyncio.Event()
        self._submitting = asyncio.Lock()
        self._answering = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._preparer: ActorProxy[Preparer] | None = None
        self._keeper: ActorProxy[Keeper] | None = None
        self._metrics = ServiceMetrics()
        context = ray.get_runtime_context()
        if context.was_current_actor_reconstructed:
            context.current_actor.start.remote()  # whoever started the service may be gone

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
        digest = hashlib.blake2b(request.model_dump_json().encode(), digest_size=16).hexdigest()
        async with self._submitting:
            known = self._known(run_id, owner, digest, key)
            if known is not None:
                return await self._record(known), known != run_id
            self._check_room(owner)
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
            self._remember(asked)
        self._metrics.asked()
        if not await self._answered_already(asked):
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
            await self._end(asked, End(status="cancelled"))

    @ray.method
    async def plan(self, owner: str, request: SelectionRequest) -> Plan:
        """Say what a selection would cost. Raises InvalidRequest, Busy."""
        config = await asyncio.to_thread(resolve_selection, request, owner, self._config, self._shelf)
        with _Turn(self):
            try:
                return await tried(lambda: self._prepares().plan.remote(config))
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
                end = await self._drive(config, folder, there / "stop")
                if end.status != "finished":
                    raise InvalidRequest(end.error or "the scoring was stopped")
                return await tried(lambda: self._prepares().scores.remote(folder.location))
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
        if self._keeper is not None:
            await self._keeper.end_all.remote()
            ray.kill(cast("ActorHandle[Keeper]", self._keeper))
        if self._lease is not None:
            await asyncio.to_thread(self._lease.release)

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self._folder / "targets", self._config.limits)

    async def _take_over(self) -> None:
        """Get the folder's lease, learn every run from its files, and go on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        from actors.keeper import KeeperActor

        self._keeper = KeeperActor.options(
            name=keeper_name(self._config),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=0,
            max_concurrency=10_000,
        ).remote(Patience())
        self._prepares()
        while self._lease is None:
            try:
                place = RunFolder.open(self._folder / "service")
                self._lease = await asyncio.to_thread(Lease.acquire, place, "service", _LEASE_S)
            except RunFolderError as error:
                _log.info("waiting for the folder: %s", error)
                await asyncio.sleep(_LEASE_AGAIN_S)
        self._spawn(self._keep_lease(self._lease))
        waiting, going = list[Asked](), list[Asked]()
        for asked, ended, began in await asyncio.to_thread(self._survey):
            self._remember(asked)
            if ended is not None:
                self._note_finished(asked, ended)
            else:
                (going if began else waiting).append(asked)
        for asked in going:
            self._queue.began(asked.owner)
            self._spawn(self._run(asked))
        for asked in waiting:
            if self._ledger.stop_file(asked.id).exists():
                await self._end(asked, End(status="cancelled"))
            else:
                self._queue.add(asked.owner, asked.id)
        self._open.set()
        self._spawn(self._sweep())
        self._spawn(self._measure())
        self._pump()

    def _survey(self) -> list[tuple[Asked, Ended | None, bool]]:
        shutil.rmtree(self._folder / "scores", ignore_errors=True)  # who waited for them is gone
        return [
            (asked, self._ledger.ended(asked.id), self._ledger.began(asked.id) is not None)
            for asked in self._ledger.all()
        ]

    def _remember(self, asked: Asked) -> None:
        if asked.key is not None:
            self._keys[asked.owner, asked.key] = (asked.id, asked.request)

    def _known(self, run_id: str, owner: str, digest: str, key: str | None) -> str | None:
        """Return the run that a request already is."""
        if self._ledger.knows(run_id):
            return run_id
        if key is None or (owner, key) not in self._keys:
            return None
        found, request = self._keys[owner, key]
        if request != digest:
            raise KeyReused(f"Idempotency-Key {key!r} came with another request: use another key")
        return found

    def _check_open(self) -> None:
        if not self._open.is_set():
            raise Unavailable("the service is taking its runs over: try again in a moment", 5.0)

    def _check_room(self, owner: str) -> None:
        limits, free = self._config.limits, self._queue.running < self._config.limits.active_runs
        if len(self._queue) >= limits.queued_runs + free:
            self._metrics.refused()
            raise QueueFull(
                f"{len(self._queue)} runs wait, and limits.queued_runs is {limits.queued_runs}: try again later", 30.0
            )
        if (waiting := self._queue.waiting_of(owner)) >= limits.queued_runs_per_token:
            self._metrics.refused()
            raise QueueFull(
                f"{waiting} runs of {owner} wait, and limits.queued_runs_per_token is "
                f"{limits.queued_runs_per_token}: try again later",
                30.0,
            )

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
        """Drive a run to its end, and start the next."""
        try:
            if not await self._answered_already(asked):
                await self._end(asked, await self._driven(asked))
        except Exception as error:  # the edge: what is no fault of the run ends it, and no other
            _log.exception("run %s ended by a defect", asked.id)
            words = " ".join(str(error).split())[:500]
            await self._end(asked, End(status="failed", error=f"the service failed at this run: {words}; ask again"))
        finally:
            self._queue.done(asked.owner)
            self._pump()

    async def _driven(self, asked: Asked) -> End:
        await asyncio.to_thread(self._ledger.begin, asked.id, datetime.now(UTC))
        config = asked.config.model_copy(update={"workers": self._config.workers, "store": self._store})
        folder, stop = self._ledger.folder(asked.id), self._ledger.stop_file(asked.id)
        return await self._drive(config, folder, stop)

    @property
    def _store(self) -> Store:
        """Where runs leave their sketches for each other."""
        kept = self._config.sketches
        return Store(path=kept.path or str(self._folder / "sketches"), max_gib=kept.max_gib)

    async def _drive(self, config: RunConfig, folder: RunFolder, stop: Path) -> End:
        from ray_app.service.drive import drive

        return await drive(config, folder, stop, keeper_name(self._config), self._prepares)

    async def _answered_already(self, asked: Asked) -> bool:
        """End a run whose very work another has done: with its results, and without a gradient."""
        twin = self._finished.get(asked.work)
        if twin is None:
            return False
        ended = await asyncio.to_thread(self._linked, asked, twin, datetime.now(UTC))
        if ended is None:
            return False
        await asyncio.to_thread(self._ledger.begin, asked.id, ended.at)
        await asyncio.to_thread(self._ledger.end, asked.id, ended)
        self._metrics.ended("finished")
        return True

    def _linked(self, asked: Asked, twin: str, now: datetime) -> Ended | None:
        try:
            other = self._ledger.asked(twin)
        except NotFound:  # deleted meanwhile
            return None
        if _computed(asked.config) != _computed(other.config):
            return None
        return link_results(self._ledger.folder(twin), self._ledger.folder(asked.id), self._ledger.ended(twin), now)

    async def _end(self, asked: Asked, end: End) -> None:
        outcome = gradients = None
        if end.status == "finished":
            location = self._ledger.folder(asked.id).location
            outcome, gradients = await tried(lambda: self._prepares().outcome.remote(location))
        ended = Ended(status=end.status, at=datetime.now(UTC), error=end.error, outcome=outcome, gradients=gradients)
        await asyncio.to_thread(self._ledger.end, asked.id, ended)
        self._note_finished(asked, ended)
        self._metrics.ended(end.status)

    def _note_finished(self, asked: Asked, ended: Ended) -> None:
        if ended.status == "finished":
            self._finished[asked.work] = asked.id

    def _prepares(self) -> "ActorProxy[Preparer]":
        if self._preparer is None:
            from ray_app.service.preparer import PreparerActor

            self._preparer = PreparerActor.options(num_cpus=0, max_restarts=-1).remote(keeper_name(self._config))
        return self._preparer

    async def _keep_lease(self, lease: Lease) -> None:
        """Renew the lease; who loses it ends, and with it everything that it drives."""
        while True:
            await asyncio.sleep(_LEASE_S / 3)
            try:
                await asyncio.to_thread(lease.renew)
            except RunFolderError as error:
                _log.error("the service ends: %s", error)
                os._exit(1)

    async def _sweep(self) -> None:
        """Delete runs as the configuration says."""
        while True:
            await asyncio.to_thread(self._delete_old, datetime.now(UTC))
            await asyncio.sleep(_SWEEP_S)

    def _delete_old(self, now: datetime) -> None:
        keep, kept = self._config.retention, Counter[str]()
        for run_id in self._ledger.ids():
            ended = self._ledger.ended(run_id)
            if ended is None:
                continue
            asked = self._ledger.asked(run_id)
            kept[asked.owner] += 1
            late = keep.days is not None and now - ended.at > timedelta(days=keep.days)
            if late or (keep.runs_per_token is not None and kept[asked.owner] > keep.runs_per_token):
                if self._finished.get(asked.work) == run_id:
                    del self._finished[asked.work]
                self._keys.pop((asked.owner, asked.key or ""), None)
                self._ledger.remove(run_id)

    async def _measure(self) -> None:
        """Keep the gauges up."""
        assert self._keeper is not None
        while True:
            self._metrics.line(len(self._queue), self._queue.running)
            with contextlib.suppress(RayActorError):  # it is being started again
                counts = await self._keeper.counts.remote()
                self._metrics.workers(counts.lent, counts.idle, counts.waiting)
            await asyncio.sleep(_MEASURE_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _computed(config: RunConfig) -> dict[str, object]:
    """Return what settles a run's results, by section."""
    return config.model_dump(exclude={"workers", "store"})


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
