"""The gradient workers of a run: kept at the number the cluster carries, replaced when they die, given up when they
die for no reason but themselves, handed back when whoever lent them asks.

Invariants: every worker that is ready is known to the dispatcher, and none that is lost; a dead machine and a sample on
trial are not counted against a worker; the pool fails only when every worker was given up or the first was never ready.
"""

import asyncio
from typing import Protocol

import ray

from actors.lanes import Dispatcher, LossKind, WorkerLost
from actors.pace import Pace
from actors.remote_worker import Bank, RemoteWorker, Source
from actors.resources import Nodes, WorkerSize, worker_count
from clusterucb.config import Workers
from clusterucb.errors import ResourceError
from clusterucb.gradients.targets import TargetBank
from clusterucb.types import WorkerInfo

_SURVEY_S = 3.0
_MOST_REST_S = 60.0


class PoolNotices(Protocol):
    """Hears what becomes of workers."""

    def ready(self, index: int, info: WorkerInfo) -> None:
        """A worker has loaded its model."""
        ...

    def lost(self, index: int, reason: str, kind: LossKind) -> None:
        """A worker is gone; its jobs are given back and another is started in its place."""
        ...

    def retired(self, index: int, deaths: int) -> None:
        """A worker is not started again."""
        ...


class WorkerPool:
    """Keeps workers; `run` does so until it is cancelled, `ready` is set once the first can work."""

    def __init__(
        self,
        wanted: Workers,
        size: WorkerSize,
        source: Source,
        dispatcher: Dispatcher,
        notices: PoolNotices,
    ) -> None:
        self.ready = asyncio.Event()
        self._wanted = wanted
        self._size = size
        self._source = source
        self._dispatcher = dispatcher
        self._notices = notices
        self._pace = Pace(wanted.deadline_factor, wanted.deadline_min_s, wanted.ready_timeout_s)
        self._bank: Bank = []
        self._slots: dict[int, asyncio.Task[None]] = {}
        self._alive: dict[int, RemoteWorker] = {}
        self._given_up: dict[int, str] = {}
        self._queueing = 0

    async def run(self) -> None:
        """Start workers, follow the cluster, replace the dead. Raises what a model's loading raises, and
        ResourceError where nothing can work."""
        deadline = asyncio.get_running_loop().time() + self._wanted.ready_timeout_s
        try:
            while True:
                self._resize(await asyncio.to_thread(living_nodes))
                self._collect()
                await asyncio.wait(self._slots.values(), timeout=_SURVEY_S, return_when=asyncio.FIRST_COMPLETED)
                if self._queueing == len(self._slots):  # other runs are being served: that takes as long as it takes
                    deadline = asyncio.get_running_loop().time() + self._wanted.ready_timeout_s
                if not self.ready.is_set() and asyncio.get_running_loop().time() > deadline:
                    raise ResourceError(
                        f"no worker was ready within {self._wanted.ready_timeout_s:g} s: other work holds the "
                        f"cluster's resources, or the model loads slowly; raise workers.ready_timeout_s or wait and "
                        f"run again"
                    )
        finally:
            for slot in self._slots.values():
                slot.cancel()
            await asyncio.gather(*self._slots.values(), return_exceptions=True)

    def share_bank(self, bank: TargetBank) -> None:
        """Put the target bank into the object store once, for all workers, those to come included."""
        self._bank[:] = [ray.put(bank)]

    async def infos(self) -> list[WorkerInfo]:
        """Return what the living workers used."""
        found = await asyncio.gather(*(worker.info() for worker in self._alive.values()), return_exceptions=True)
        return [info for info in found if isinstance(info, WorkerInfo)]

    def _resize(self, nodes: Nodes) -> None:
        """Follow the cluster: start what it has room for, and stop waiting for room that is gone."""
        wanted = worker_count(self._wanted, self._size, nodes)
        for index in range(wanted):
            if index not in self._slots and index not in self._given_up:
                self._slots[index] = asyncio.create_task(self._keep(index))
        for index in [index for index in self._slots if index >= wanted and index not in self._alive]:
            self._slots.pop(index).cancel()

    def _collect(self) -> None:
        """Take note of workers that were given up; raise what a worker's start raised."""
        for index in [index for index, slot in self._slots.items() if slot.done()]:
            self._slots.pop(index).result()
        if not self._slots:
            raise ResourceError(
                f"all {len(self._given_up)} workers died {self._wanted.deaths} times in a row "
                f"({next(iter(self._given_up.values()))}): look at their logs, give them more memory "
                f"(workers.memory_gib) or smaller batches (gradients.batch_tokens), then run again"
            )

    async def _keep(self, index: int) -> None:
        """Keep one worker alive until it died too often in a row without an answer in between."""
        deaths = 0
        while True:
            self._queueing += 1
            try:
                process = await self._source.take()
            finally:
                self._queueing -= 1
            worker = RemoteWorker(index, process, self._pace, self._bank, self._wanted.heartbeat_timeout_s)
            try:
                lost = await self._live(worker)
            finally:
                self._alive.pop(index, None)
                self._dispatcher.leave(worker)
                worker.part()
            if lost is None:
                continue
            if worker.answered:
                deaths = 0
            deaths += not (worker.on_trial or lost.kind == "node")
            self._notices.lost(index, str(lost), lost.kind)
            if deaths >= self._wanted.deaths:
                self._given_up[index] = str(lost)
                self._notices.retired(index, deaths)
                return
            await asyncio.sleep(min(_MOST_REST_S, 0.5 * 2**deaths))

    async def _live(self, worker: RemoteWorker) -> WorkerLost | None:
        """Load a worker, watched from the moment it is placed, and let it work until it is lost or wanted elsewhere."""
        try:
            await worker.place()
        except WorkerLost as lost:
            return lost
        watching = asyncio.create_task(worker.watch())
        returning: asyncio.Task[None] | None = None
        try:
            info = await worker.load()
            returning = asyncio.create_task(worker.wanted_back())
            self._notices.ready(worker.index, info)
            self._alive[worker.index] = worker
            self._dispatcher.join(worker)
            self.ready.set()
            await asyncio.wait([watching, returning], return_when=asyncio.FIRST_COMPLETED)
            self._dispatcher.leave(worker)
            emptied = asyncio.create_task(worker.free())
            await asyncio.wait([watching, emptied], return_when=asyncio.FIRST_COMPLETED)
            emptied.cancel()
            return watching.result() if watching.done() else None
        except WorkerLost as lost:
            return lost
        finally:
            watching.cancel()
            if returning is not None:
                returning.cancel()


def living_nodes() -> Nodes:
    """Return the resources of every living node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
