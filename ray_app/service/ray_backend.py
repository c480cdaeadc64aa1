"""The backend of a replica: what is written goes to the service's actor, what is read comes from the folders.

Invariants: a replica holds nothing that another does not find; looking at runs goes on while the actor is away; a call
that died with the actor is made again, and is the same call.
"""

import asyncio
import builtins
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import ray
from ray.actor import ActorProxy
from ray.exceptions import RayActorError, RayTaskError

from actors.names import NAMESPACE
from clusterucb.config import ServiceConfig
from ray_app.service.ledger import Ledger
from ray_app.service.names import service_name
from ray_app.service.records import (
    News,
    Plan,
    Readiness,
    RunFilter,
    RunPage,
    RunRecord,
    Scores,
    StoredTarget,
    new_run_id,
)
from ray_app.service.refusals import NotFound, Refusal, Unavailable
from ray_app.service.requests import ScoreRequest, SelectionRequest, TargetUpload
from ray_app.service.run_tail import POLL_S, RunTail
from ray_app.service.shelf import Shelf

if TYPE_CHECKING:
    from ray_app.service.service import Service

Value = TypeVar("Value")
_TRIES = 8
_AGAIN_S = 0.5
_KEPT_TAILS = 256
_READY_S = 5.0


def start_service(config: ServiceConfig) -> "ActorProxy[Service]":
    """Create the service's actor, or find it; give it this configuration."""
    try:
        actor: ActorProxy[Service] = ray.get_actor(service_name(config), namespace=NAMESPACE)
    except ValueError:
        from ray_app.service.service import ServiceActor  # and with it torch, which nobody else here needs

        actor = ServiceActor.options(
            name=service_name(config),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=0,
            max_concurrency=10_000,
        ).remote(config)
    actor.start.remote()
    actor.configure.remote(config)
    return actor


class RayBackend:
    """Implements `Backend`."""

    def __init__(self, config: ServiceConfig) -> None:
        folder = Path(config.folder).resolve()
        self._config = config
        self._ledger = Ledger(folder)
        self._shelf = Shelf(folder / "targets", config.limits)
        self._tails: dict[str, RunTail] = {}
        self._over: dict[str, RunRecord] = {}
        self._order: tuple[str, ...] = ()
        self._ordered = float("-inf")

    async def submit(self, owner: str, request: SelectionRequest, key: str | None) -> tuple[RunRecord, bool]:
        """Queue a selection."""
        run_id = new_run_id(time.time_ns() // 10**6)
        record, known = await self._tried(lambda service: service.submit.remote(run_id, owner, request, key))
        return record, known

    async def list(self, which: RunFilter, before: str | None, limit: int) -> RunPage:
        """Return a page of runs, without their stages."""
        runs, more = await asyncio.to_thread(self._page, which, before, limit)
        placed = [await self._placed(record) for record in runs]
        return RunPage(runs=tuple(placed), next=placed[-1].id if more and placed else None)

    async def get(self, run_id: str) -> RunRecord:
        """Return a run with its progress."""
        return await self._placed(await self._tail(run_id).record())

    async def news(self, run_id: str, after: int, wait_s: float) -> News:
        """Return what is new in a run."""
        found = await self._tail(run_id).news(after, wait_s)
        return News(record=await self._placed(found.record), events=found.events)

    async def cancel(self, run_id: str) -> RunRecord:
        """Ask a run to stop."""
        await self._tried(lambda service: service.cancel.remote(run_id))
        self._tails.pop(run_id, None)
        return await self.get(run_id)

    async def location(self, run_id: str) -> str:
        """Return where a run's folder is."""
        await self.get(run_id)
        return self._ledger.folder(run_id).location

    async def plan(self, owner: str, request: SelectionRequest) -> Plan:
        """Say what a selection would cost."""
        return await self._tried(lambda service: service.plan.remote(owner, request))

    async def score(self, owner: str, request: ScoreRequest) -> Scores:
        """Score samples."""
        run_id = new_run_id(time.time_ns() // 10**6)
        return await self._tried(lambda service: service.score.remote(run_id, owner, request))

    async def targets(self, owner: str) -> tuple[StoredTarget, ...]:
        """Return the catalogue's targets and an owner's own."""
        known = tuple(
            StoredTarget(
                name=name,
                description=target.description,
                origin="catalogue",
                rows=None,
                subtask_field=target.subtask_field,
            )
            for name, target in self._config.catalogue.targets.items()
        )
        return known + await asyncio.to_thread(self._shelf.list, owner)

    async def keep_target(self, owner: str, upload: TargetUpload) -> tuple[StoredTarget, bool]:
        """Keep a target."""
        return await asyncio.to_thread(self._shelf.keep, owner, upload)

    async def drop_target(self, owner: str, name: str) -> None:
        """Forget a target."""
        await asyncio.to_thread(self._shelf.drop, owner, name)

    async def ready(self) -> Readiness:
        """Say whether requests can be taken."""
        try:
            async with asyncio.timeout(_READY_S):
                return await self._service().ready.remote()
        except (TimeoutError, RayActorError, ValueError):
            return Readiness(ready=False, reason="the service's actor does not answer: it is being started")

    def _service(self) -> "ActorProxy[Service]":
        """Find the actor; raises ValueError where there is none."""
        return ray.get_actor(service_name(self._config), namespace=NAMESPACE)

    async def _tried(self, call: "Callable[[ActorProxy[Service]], Awaitable[Value]]") -> Value:
        """Make a call, again while the actor is being started. Raises its refusals as they are."""
        for again in range(_TRIES):
            try:
                return await call(self._service())
            except RayTaskError as error:
                cause = error.cause
                if not isinstance(cause, Unavailable) or again == _TRIES - 1:
                    if isinstance(cause, Refusal):
                        raise cause from None
                    raise
            except RayActorError:
                pass
            except ValueError:  # it was taken down for good, by a hand or with its cluster
                start_service(self._config)
            await asyncio.sleep(_AGAIN_S * (again + 1))
        raise Unavailable("the service's actor does not answer: try again in a moment", 10.0)

    async def _placed(self, record: RunRecord) -> RunRecord:
        """Return a record with its place in the queue, as it was within the last half second."""
        if record.status != "queued":
            return record
        if time.monotonic() - self._ordered > POLL_S:
            self._ordered = time.monotonic()
            try:
                async with asyncio.timeout(_READY_S):
                    self._order = await self._service().order.remote()
            except (TimeoutError, RayActorError, ValueError):
                pass  # the last that was known
        place = self._order.index(record.id) if record.id in self._order else 0
        return record.model_copy(update={"queue_position": place})

    def _tail(self, run_id: str) -> RunTail:
        tail = self._tails.get(run_id)
        if tail is None:
            if len(self._tails) >= _KEPT_TAILS:
                for old in sorted(self._tails, key=lambda each: self._tails[each].used)[: _KEPT_TAILS // 2]:
                    del self._tails[old]
            tail = self._tails[run_id] = RunTail(self._ledger, run_id, time.monotonic)
        return tail

    def _page(self, which: RunFilter, before: str | None, limit: int) -> "tuple[builtins.list[RunRecord], bool]":
        found: builtins.list[RunRecord] = []
        wanted = which.model_dump(exclude_none=True)
        for run_id in self._ledger.ids():
            if before is not None and run_id >= before:
                continue
            record = self._over.get(run_id)
            if record is None:
                try:
                    record = self._ledger.record(run_id)
                except NotFound:  # deleted meanwhile
                    continue
                if record.over:
                    self._over[run_id] = record
            if all(getattr(record, name) == value for name, value in wanted.items()):
                if len(found) == limit:
                    return found, True
                found.append(record)
        return found, False
