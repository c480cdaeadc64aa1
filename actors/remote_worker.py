"""One worker actor as the coordinator sees it: loading, answering, watched, ended where it hangs, given back if lent.

Invariant: whatever Ray says of a worker's end (died, unavailable, hung, machine gone) becomes one WorkerLost, the same
for every job it held; after that the actor is dead.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

import ray
import torch
from ray.actor import ActorHandle, ActorProxy
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

from actors.gang import Gang
from actors.gradient_worker import GradientActor, GradientWorker
from actors.lanes import LossKind, WorkerLost
from actors.pace import Pace
from actors.resources import WorkerSize
from clusterucb.config import RunConfig
from clusterucb.errors import ClusterUCBError
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.tasks import Answer, Job, Task
from clusterucb.types import WorkerInfo

Value = TypeVar("Value")
_ENDS = (RayActorError, OutOfMemoryError, ObjectLostError)
"""What Ray raises when a process, its memory or its machine (with an answer not yet fetched) is gone."""
Bank = list["ray.ObjectRef[TargetBank]"]
"""The reference of the target bank once there is one; a list, which Ray hands on unresolved."""


@dataclass(slots=True, eq=False)
class _Held:
    """A task at the worker, and the loop's time since which the worker has had nothing older to do."""

    task: Task
    since: float


@dataclass(frozen=True, slots=True, eq=False)
class WorkerProcess:
    """An actor, one process or the front of a gang, and what ends it."""

    actor: ActorProxy[GradientWorker]
    end: Callable[[], None]
    give_back: Callable[[], None] | None = None
    """What becomes of a good one that is no longer needed; none ends it."""
    wanted_back: Callable[[], Awaitable[None]] | None = None
    """Waits until whoever lent it wants it back; none where it is the run's own."""


class Source(Protocol):
    """Where a run's workers come from."""

    async def take(self) -> WorkerProcess:
        """Return a worker once there is one."""
        ...


class OwnProcesses:
    """Workers of one run alone; Ray places them where there is room, now or later."""

    def __init__(self, config: RunConfig, size: WorkerSize) -> None:
        self._config = config
        self._size = size

    async def take(self) -> WorkerProcess:
        """Start a worker."""
        return start_process(self._config, self._size)


def start_process(config: RunConfig, size: WorkerSize) -> WorkerProcess:
    """Start a worker of the run; Ray places it where there is room, now or later."""
    config_json, threads = config.model_dump_json(), max(1, int(size.num_cpus))
    if size.shards > 1:
        gang = Gang(config_json, threads, size)
        return WorkerProcess(cast(ActorProxy[GradientWorker], gang.front), gang.end)
    actor = GradientActor.options(num_cpus=size.num_cpus, num_gpus=size.num_gpus, memory=size.memory or None).remote(
        config_json, threads
    )
    return WorkerProcess(actor, lambda: ray.kill(cast(ActorHandle[GradientWorker], actor)))


class RemoteWorker:
    """One worker from its start to its end."""

    def __init__(self, index: int, process: WorkerProcess, pace: Pace, bank: Bank, heartbeat_timeout_s: float) -> None:
        self.index = index
        self.on_trial = False
        self.answered = 0
        self._pace = pace
        self._bank = bank
        self._heartbeat_timeout_s = heartbeat_timeout_s
        self._held: list[_Held] = []
        self._lost: WorkerLost | None = None
        self._ended = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()
        self._node = ""
        self._good = False
        self._process = process
        self._actor = process.actor

    async def place(self) -> None:
        """Wait until Ray has found room for the actor and its process answers."""
        self._node = await self._call(lambda: self._actor.node.remote())

    async def load(self) -> WorkerInfo:
        """Load the model. Raises what its loading raises."""
        info = await self._call(lambda: self._actor.load.remote())
        self._good = True
        return info

    async def info(self) -> WorkerInfo:
        """Ask what the worker used so far."""
        return await self._call(lambda: self._actor.info.remote())

    async def answer(self, job: Job) -> Answer:
        """Do one job on the actor."""
        now = asyncio.get_running_loop().time
        held = _Held(job.task, now())
        self._held.append(held)
        self._free.clear()
        try:
            answer = await self._call(lambda: self._actor.work.remote(job.task, self._bank))
        except Exception:  # whatever it was, nobody else is given this process
            self._good = False
            raise
        finally:
            self._held.remove(held)
            if not self._held:
                self._free.set()
        self._pace.saw(job.task, now() - held.since)
        self.answered += 1
        for other in self._held:  # whatever waited behind this one begins now
            other.since = now()
        return answer

    async def watch(self) -> WorkerLost:
        """Wait for the worker's end, and bring it about where it misses a heartbeat or a deadline."""
        while self._lost is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_timeout_s / 4):
                    await self._ended.wait()
            if self._lost is None and (overdue := self._overdue()) is not None:
                await self._lose(overdue, "hung")
            elif self._lost is None:
                await self._ping()
        return self._lost

    async def wanted_back(self) -> None:
        """Wait until somebody else is to have this worker; for ever where it is the run's own."""
        await (asyncio.Event().wait() if self._process.wanted_back is None else self._process.wanted_back())

    async def free(self) -> None:
        """Wait until the worker holds nothing."""
        await self._free.wait()

    def part(self) -> None:
        """Do without the worker: a good one goes back to whoever lent it, any other is ended."""
        if self._good and self._lost is None and self._process.give_back is not None:
            self._process.give_back()
        else:
            self._process.end()

    async def _ping(self) -> None:
        try:
            async with asyncio.timeout(self._heartbeat_timeout_s):
                await self._actor.ping.remote()
        except TimeoutError:
            await self._lose(f"its process has not answered for {self._heartbeat_timeout_s:g} s", "hung")
        except _ENDS as error:
            await self._lose(_words(error), "died")

    def _overdue(self) -> str | None:
        if not self._held:
            return None
        oldest = self._held[0]
        limit_s = self._pace.limit_s(oldest.task)
        if asyncio.get_running_loop().time() - oldest.since <= limit_s:
            return None
        return f"a micro-batch took longer than its deadline of {limit_s:.0f} s"

    async def _call(self, start: "Callable[[], ray.ObjectRef[Value]]") -> Value:
        """Await a remote call. Raises the worker's own ClusterUCBError, or WorkerLost."""
        try:
            return await start()
        except _ENDS as error:
            raise await self._lose(_words(error), "died") from None
        except RayTaskError as error:
            if isinstance(error.cause, ClusterUCBError):
                raise error.cause from None
            if isinstance(error.cause, torch.AcceleratorError):  # the device's context is lost for the whole process
                raise await self._lose(_words(error.cause), "died") from None
            raise

    async def _lose(self, reason: str, kind: LossKind) -> WorkerLost:
        """Settle, once, how this worker ended."""
        if self._lost is None and kind == "died" and await asyncio.to_thread(_node_is_dead, self._node):
            kind = "node"
        if self._lost is None:
            self._lost = WorkerLost(reason, kind)
            self._process.end()
            self._ended.set()
        return self._lost


def _node_is_dead(node: str) -> bool:
    return any(each["NodeID"] == node and not each["Alive"] for each in ray.nodes())


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
