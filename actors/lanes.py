"""Bounded dispatch of a stage's jobs over workers that come, go and die. Knows asyncio, not Ray.

Invariants: every job that is asked for is told or given back exactly once; a lost worker's jobs go to others; no
worker ever holds more than `in_flight` jobs, and none gets a second one while another has none; a job that loses too
many workers is examined alone, so that blame is exact. The stage is only ever touched from one thread at a time.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from actors.culprits import without_culprits
from clusterucb.run.tasks import Answer, Job, Stage, Task

Value = TypeVar("Value")
_PATIENCE_S = 2.0
LossKind = Literal["died", "hung", "node"]


class WorkerLost(Exception):
    """The call ended with its worker: the job was not done as far as anyone knows. `kind` is the event's."""

    def __init__(self, reason: str, kind: LossKind = "died") -> None:
        super().__init__(reason)
        self.kind: LossKind = kind


class LaneWorker(Protocol):
    """Anything that answers jobs."""

    on_trial: bool
    """Set while a suspected job is tried here: a death then is the job's doing."""

    async def answer(self, job: Job) -> Answer:
        """Do one job; raise WorkerLost where the worker failed rather than the job. A lost worker has to be
        withdrawn by whoever brought it."""
        ...


class Notices(Protocol):
    """Hears what happens between the stages and the workers."""

    def suspected(self, job: Job) -> None:
        """A job has lost too many workers and is examined alone."""
        ...

    def idle(self) -> None:
        """There is work and no worker: called when that begins and every while as it lasts."""
        ...

    def load(self, jobs: int, workers: int, busy: int) -> None:
        """`jobs` are out at `busy` of `workers`."""
        ...


@dataclass(slots=True, eq=False)
class _Lane:
    """One worker and how many jobs it holds; a reserved one takes no others, a lost one none any more."""

    worker: LaneWorker
    in_hand: int = 0
    reserved: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    job: Job
    result: Answer | WorkerLost


class _Bell:
    """Wakes everyone who listens. Take `next` before looking at the state, and no ring is missed."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    @property
    def next(self) -> "asyncio.Future[None]":
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    def ring(self) -> None:
        if self._next is not None:
            self._next.set_result(None)
            self._next = None


class Dispatcher:
    """Drains stages over whichever workers there are at the time."""

    def __init__(
        self,
        in_flight: int,
        attempts: int,
        notices: Notices,
        before_telling: Callable[[], None] = lambda: None,
        idle_s: float = 30.0,
    ) -> None:
        """`before_telling` is called, in a thread, before answers are counted, and raises where they must not be."""
        self.in_flight = in_flight
        self.attempts = attempts
        self.notices = notices
        self.before_telling = before_telling
        self.idle_s = idle_s
        self.bell = _Bell()
        self._lanes: list[_Lane] = []

    def join(self, worker: LaneWorker) -> None:
        """Give work to one more worker."""
        self._lanes.append(_Lane(worker))
        self.bell.ring()

    def leave(self, worker: LaneWorker) -> None:
        """Give this worker nothing any more."""
        for lane in self._lanes:
            lane.lost = lane.lost or lane.worker is worker
        self._lanes = [lane for lane in self._lanes if not lane.lost]
        self.bell.ring()

    async def drain(self, stage: Stage) -> None:
        """Run a stage to its end, waiting for workers where there are none. An error of a job ends it."""
        await _Drain(stage, self).run()

    @property
    def lanes(self) -> list[_Lane]:
        """The lanes of workers that may be given work."""
        return [lane for lane in self._lanes if not lane.lost]

    def freest(self) -> _Lane | None:
        """Return the lane that holds the fewest jobs, the first of equal ones, if any may take another."""
        able = [lane for lane in self.lanes if not lane.reserved and lane.in_hand < self.in_flight]
        return min(able, key=lambda lane: lane.in_hand, default=None)

    def room(self) -> int:
        """Return how many jobs can be handed out now."""
        return sum(self.in_flight - lane.in_hand for lane in self.lanes if not lane.reserved)

    async def attempt(self, lane: _Lane, job: Job) -> Answer | WorkerLost:
        """Have a lane do the job that it was counted to hold; after a loss it gets no other."""
        try:
            return await lane.worker.answer(job)
        except WorkerLost as lost:
            lane.lost = True
            return lost
        finally:
            lane.in_hand -= 1
            self.bell.ring()

    async def reserve(self) -> _Lane:
        """Return a lane of one's own, once it holds nothing."""
        while True:
            ring = self.bell.next
            mine = min((lane for lane in self.lanes if not lane.reserved), key=lambda lane: lane.in_hand, default=None)
            if mine is None:
                await ring
                continue
            mine.reserved = True
            while mine.in_hand and not mine.lost:
                await self.bell.next
            if not mine.lost:
                return mine


class _Drain:
    """One stage on its way to its end."""

    def __init__(self, stage: Stage, dispatcher: Dispatcher) -> None:
        self._stage = stage
        self._dispatcher = dispatcher
        self._losses: Counter[int] = Counter()
        self._running: dict[Job, asyncio.Task[_Outcome]] = {}
        self._examining: asyncio.Task[_Outcome] | None = None
        self._suspects: list[Job] = []

    async def run(self) -> None:
        try:
            while not self._stage.done:
                ring = self._dispatcher.bell.next
                settled = await self._settle()
                if not await self._hand_out() and not settled and not self._stage.done:  # asking may have ended it
                    await self._listen(ring)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            for job in (*self._running, *self._suspects):
                self._stage.give_back(job)

    async def _settle(self) -> bool:
        """Tell every answer that has come, together; return whether anything had."""
        ended = [task for task in self._running.values() if task.done()]
        if not ended:
            return False
        outcomes = [task.result() for task in ended if task.exception() is None]
        answers = [(each.job, each.result) for each in outcomes if not isinstance(each.result, WorkerLost)]
        for outcome in outcomes:
            del self._running[outcome.job]
        if answers:
            await _whole(asyncio.to_thread(self._tell, answers))
        for outcome in outcomes:
            if isinstance(outcome.result, WorkerLost):
                self._after_loss(outcome.job, outcome.result)
        for task in ended:
            if (error := task.exception()) is not None:
                raise error
        return True

    def _tell(self, answers: Sequence[tuple[Job, Answer]]) -> None:
        self._dispatcher.before_telling()
        self._stage.tell_many(answers)

    def _after_loss(self, job: Job, lost: WorkerLost) -> None:
        """Let the job wait again, or examine it where it may be the cause; a dead machine is no job's doing."""
        self._losses[job.index] += lost.kind != "node"
        if self._losses[job.index] < self._dispatcher.attempts:
            self._stage.give_back(job)
        else:
            self._dispatcher.notices.suspected(job)
            self._suspects.append(job)

    async def _hand_out(self) -> bool:
        """Fill the lanes; return whether any job went out."""
        if self._suspects and (self._examining is None or self._examining.done()):
            job = self._suspects.pop(0)
            self._examining = self._running[job] = self._start(self._examine(job))
        room = self._dispatcher.room()
        jobs = await _whole(asyncio.to_thread(_ask, self._stage, room)) if room else []
        for job in jobs:
            lane = self._dispatcher.freest()
            if lane is None:  # a worker went while the stage was asked
                self._stage.give_back(job)
                continue
            lane.in_hand += 1
            self._running[job] = self._start(self._try(lane, job))
        if jobs:
            self._report()
        return bool(jobs)

    def _start(self, work: Coroutine[Any, Any, _Outcome]) -> "asyncio.Task[_Outcome]":
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._dispatcher.bell.ring())
        return task

    async def _try(self, lane: _Lane, job: Job) -> _Outcome:
        return _Outcome(job, await self._dispatcher.attempt(lane, job))

    async def _examine(self, job: Job) -> _Outcome:
        async def alone(task: Task) -> Answer | None:
            while True:
                lane = await self._dispatcher.reserve()
                lane.in_hand, lane.worker.on_trial = 1, True
                result = await self._dispatcher.attempt(lane, Job(job.stage, job.index, task))
                if not isinstance(result, WorkerLost):
                    lane.worker.on_trial = lane.reserved = False
                    return result
                if result.kind != "node":
                    return None

        return _Outcome(job, await without_culprits(job, alone, self._dispatcher.attempts))

    async def _listen(self, ring: "asyncio.Future[None]") -> None:
        """Wait until something changes; say so where nobody works."""
        self._report()
        patience_s = min(_PATIENCE_S, self._dispatcher.idle_s)
        while not ring.done():
            await asyncio.wait([ring], timeout=patience_s)
            if not (ring.done() or self._dispatcher.lanes):
                self._dispatcher.notices.idle()
            patience_s = self._dispatcher.idle_s

    def _report(self) -> None:
        lanes = self._dispatcher.lanes
        jobs = sum(lane.in_hand for lane in lanes)
        self._dispatcher.notices.load(jobs, len(lanes), sum(lane.in_hand > 0 for lane in lanes))


def _ask(stage: Stage, room: int) -> Sequence[Job]:
    """Ask for as many jobs as there is room for; in a thread, since planning a round may take a while."""
    jobs: list[Job] = []
    while len(jobs) < room and (job := stage.ask()) is not None:
        jobs.append(job)
    return jobs


async def _whole(work: Coroutine[Any, Any, Value]) -> Value:
    """Let a thread that touches the stage come to its end; a cancellation meanwhile strikes at the next await."""
    thread = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        value = await thread
        mine = asyncio.current_task()
        assert mine is not None
        mine.uncancel()
        mine.cancel()
        return value
