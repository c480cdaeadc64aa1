"""The keeper of warm workers: one actor a service, which owns gradient workers and lends them to runs.

Invariants: a worker is in one run's hands at a time, and that run finds it as a fresh one of the same checkpoint; what
is lent comes back when its run is over, asks no more or dies; a worker that did not come back good is ended. When the
keeper dies its workers die with it, and runs go on with those of its next life.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.actor import ActorClass, ActorHandle, ActorProxy
from ray.exceptions import RayActorError

from actors.gradient_worker import GradientWorker
from actors.lending import End, Kind, Lend, Lending, Patience, Recall, Ticket
from actors.names import NAMESPACE
from actors.pool import living_nodes
from actors.remote_worker import WorkerProcess, start_process
from actors.resources import WorkerSize, room_for
from clusterucb.config import RunConfig

_TICK_S = 1.0
_TAKE_ON_S = 120.0
_AGAIN_S = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """One worker that a run wants."""

    ticket: str
    run: str
    checkpoint: str
    config_json: str
    size: WorkerSize
    holder: ActorHandle
    """Who has the worker: an actor whose `over` returns when it needs none any more."""


@dataclass(frozen=True, slots=True)
class KeeperCounts:
    """How many workers are lent and idle, and how many wishes wait."""

    lent: int
    idle: int
    waiting: int


class Keeper:
    """Lends workers; `lending.py` decides."""

    def __init__(self, patience: Patience) -> None:
        self._lending = Lending(patience)
        self._processes: dict[int, WorkerProcess] = {}
        self._wishes: dict[str, Wish] = {}
        self._granted: dict[str, asyncio.Future[ActorProxy[GradientWorker]]] = {}
        self._wanted: dict[str, asyncio.Event] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking = False
        self._nodes = living_nodes()

    @ray.method
    async def borrow(self, wish: Wish) -> ActorProxy[GradientWorker]:
        """Return a worker for a wish once it is its turn; asking again with the same ticket joins the first call."""
        if not self._ticking:
            self._ticking = True
            self._start(self._tick())
        if wish.ticket not in self._wishes:
            self._wishes[wish.ticket] = wish
            self._granted[wish.ticket] = asyncio.get_running_loop().create_future()
            self._wanted[wish.ticket] = asyncio.Event()
            kind = Kind(wish.checkpoint, wish.size)
            self._lending.ask(wish.ticket, wish.run, kind, asyncio.get_running_loop().time())
            if wish.run not in self._following:
                self._following[wish.run] = self._start(self._follow(wish))
            self._settle()
        return await asyncio.shield(self._granted[wish.ticket])

    @ray.method
    async def wanted_back(self, ticket: str) -> None:
        """Return when what was lent for a ticket is to be given back; who asks has it ready, and its turn begins."""
        self._lending.begin(ticket, asyncio.get_running_loop().time())
        if ticket in self._wanted:
            await self._wanted[ticket].wait()

    @ray.method
    async def release(self, ticket: str, good: bool) -> None:
        """Take a ticket back, and its worker: for others if it is good, to be ended otherwise."""
        self._release(ticket, good)
        self._settle()

    @ray.method
    async def leave(self, run: str) -> None:
        """Take back whatever a run still has, and follow it no more."""
        following = self._following.pop(run, None)
        if following is not None:
            following.cancel()
        self._leave(run)

    @ray.method
    async def counts(self) -> KeeperCounts:
        """Say how many workers are out."""
        return KeeperCounts(*self._lending.counts)

    @ray.method
    async def end_all(self) -> None:
        """End every worker: the service is being taken down."""
        for number in list(self._processes):
            self._end(number)

    def _settle(self) -> None:
        now = asyncio.get_running_loop().time()
        for action in self._lending.settle(now, lambda size: room_for(size, self._nodes)):
            match action:
                case Lend(ticket, worker, fresh):
                    self._start(self._hand_over(ticket, worker, fresh))
                case Recall(ticket):
                    self._wanted[ticket.name].set()
                case End(worker):
                    self._end(worker)

    async def _hand_over(self, ticket: Ticket, number: int, fresh: bool) -> None:
        """Give a worker to its borrower; one that has worked before turns to the new run first."""
        wish = self._wishes.get(ticket.name)
        if wish is None:  # withdrawn meanwhile; a worker that was not started yet is nobody's loss
            return
        if fresh:
            self._processes[number] = start_process(RunConfig.model_validate_json(wish.config_json), wish.size)
        actor = self._processes[number].actor
        if not fresh:
            features = RunConfig.model_validate_json(wish.config_json).features
            try:
                async with asyncio.timeout(_TAKE_ON_S):
                    await actor.take_on.remote(features)
            except (RayActorError, TimeoutError) as error:
                _log.warning("a worker that was idle is gone: %s", " ".join(str(error).split())[:200])
                self._again(wish)
                return
        if wish.ticket not in self._granted:  # withdrawn meanwhile
            return
        self._granted[wish.ticket].set_result(actor)

    def _again(self, wish: Wish) -> None:
        """Have a wish wait anew for another worker, unless it was withdrawn."""
        loop = asyncio.get_running_loop()
        ended = self._lending.release(wish.ticket, False, loop.time())
        if ended is not None:
            self._end(ended)
        if wish.ticket in self._wishes:
            self._wanted[wish.ticket].clear()
            self._lending.ask(wish.ticket, wish.run, Kind(wish.checkpoint, wish.size), loop.time())
        self._settle()

    def _release(self, ticket: str, good: bool) -> None:
        ended = self._lending.release(ticket, good, asyncio.get_running_loop().time())
        if ended is not None:
            self._end(ended)
        self._wishes.pop(ticket, None)
        granted = self._granted.pop(ticket, None)
        if granted is not None and not granted.done():
            granted.cancel()
        wanted = self._wanted.pop(ticket, None)
        if wanted is not None:
            wanted.set()

    def _end(self, number: int) -> None:
        process = self._processes.pop(number, None)
        if process is not None:
            process.end()

    async def _follow(self, wish: Wish) -> None:
        """Take everything of a run back once its holder is done with workers or dead."""
        try:
            await cast(Any, wish.holder).over.remote()
        except RayActorError:
            _log.warning("the holder of %s's workers is gone: they are taken back", wish.run)
        del self._following[wish.run]
        self._leave(wish.run)

    def _leave(self, run: str) -> None:
        for ticket in [ticket for ticket, wish in self._wishes.items() if wish.run == run]:
            self._release(ticket, True)
        self._lending.leave(run, asyncio.get_running_loop().time())
        self._settle()

    async def _tick(self) -> None:
        """Look at turns, idle workers and nodes now and then."""
        while True:
            await asyncio.sleep(_TICK_S)
            self._nodes = await asyncio.to_thread(living_nodes)
            self._settle()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


KeeperActor: ActorClass[Keeper] = ray.remote(Keeper)


class KeptWorkers:
    """A run's workers, borrowed from the keeper of this name."""

    def __init__(self, keeper: str, run: str, checkpoint: str, config: RunConfig, size: WorkerSize) -> None:
        self._keeper = keeper
        self._run = f"{run} {uuid.uuid4().hex}"  # what an earlier life of this coordinator holds is not this one's
        self._checkpoint = checkpoint
        self._config_json = config.model_dump_json()
        self._size = size

    async def take(self) -> WorkerProcess:
        """Wait for a worker, also while the keeper is away."""
        holder = ray.get_runtime_context().current_actor
        ticket = uuid.uuid4().hex
        wish = Wish(ticket, self._run, self._checkpoint, self._config_json, self._size, holder)
        try:
            actor = await self._borrow(wish)
        except asyncio.CancelledError:
            self._release(ticket, True)
            raise
        return WorkerProcess(
            actor,
            lambda: self._release(ticket, False),
            lambda: self._release(ticket, True),
            lambda: self._wanted_back(ticket),
        )

    def close(self) -> None:
        """Be followed no more: everything was given back, and the holder lives on."""
        with contextlib.suppress(RayActorError, ValueError):
            self._actor().leave.remote(self._run)

    async def _borrow(self, wish: Wish) -> ActorProxy[GradientWorker]:
        while True:
            with contextlib.suppress(RayActorError, ValueError):  # it is being started again, or not there yet
                return await self._actor().borrow.remote(wish)
            await asyncio.sleep(_AGAIN_S)

    async def _wanted_back(self, ticket: str) -> None:
        try:
            await self._actor().wanted_back.remote(ticket)
        except (RayActorError, ValueError):  # the worker is gone with its keeper, which is noticed where it is watched
            await asyncio.Event().wait()

    def _release(self, ticket: str, good: bool) -> None:
        with contextlib.suppress(RayActorError, ValueError):
            self._actor().release.remote(ticket, good)

    def _actor(self) -> ActorProxy[Keeper]:
        return ray.get_actor(self._keeper, namespace=NAMESPACE)
