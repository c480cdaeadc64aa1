"""Bounded dispatch of a stage's jobs over workers that may be lost. Knows asyncio, not Ray.

Invariants: every job that is asked for is told or given back exactly once; a lost worker's jobs go to others; no
worker ever holds more than `in_flight` jobs, and none gets a second one while another has none.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from clusterucb.errors import ResourceError
from clusterucb.run.tasks import Answer, Job, Stage


class WorkerLost(Exception):
    """The call failed with its worker, which may come back: the job was not done as far as anyone knows."""


class WorkerGone(WorkerLost):
    """The worker is dead for good."""


class LaneWorker(Protocol):
    """Anything that answers jobs."""

    index: int

    async def answer(self, job: Job) -> Answer:
        """Do one job; raise WorkerLost where the worker failed rather than the job."""
        ...


@dataclass(slots=True, eq=False)
class _Lane:
    """One worker and how many jobs it holds; it gets none while it rests after a loss, and none once it is gone."""

    worker: LaneWorker
    in_hand: int = 0
    resting: bool = False
    gone: bool = False


class Dispatcher:
    """Drains stages over a set of workers; remembers which of them are gone."""

    def __init__(
        self,
        workers: Sequence[LaneWorker],
        in_flight: int,
        attempts: int,
        on_lost: Callable[[int, WorkerLost], None],
        back_off_s: float = 1.0,
    ) -> None:
        self._lanes = [_Lane(worker) for worker in workers]
        self._in_flight = in_flight
        self._attempts = attempts
        self._on_lost = on_lost
        self._back_off_s = back_off_s

    async def drain(self, stage: Stage) -> None:
        """Run a stage to its end. Raises ResourceError when no worker is left or a job has lost too many of them."""
        losses: Counter[int] = Counter()
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                while (lane := self._freest()) is not None and (job := stage.ask()) is not None:
                    lane.in_hand += 1
                    running.add(asyncio.create_task(self._attempt(stage, job, lane, losses)))
                if stage.done:
                    return
                if not running:
                    raise ResourceError(
                        f"all {len(self._lanes)} workers are gone in stage {stage.name}: look at their logs, give them "
                        f"more memory (workers.memory_gib) or smaller batches (gradients.batch_tokens), then run again"
                    )
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                errors = [error for task in ended if (error := task.exception()) is not None]
                if errors:
                    raise errors[0]
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _freest(self) -> _Lane | None:
        """Return the lane that holds the fewest jobs, the first of equal ones, if any may take another."""
        able = [lane for lane in self._lanes if not (lane.gone or lane.resting) and lane.in_hand < self._in_flight]
        return min(able, key=lambda lane: lane.in_hand, default=None)

    async def _attempt(self, stage: Stage, job: Job, lane: _Lane, losses: Counter[int]) -> None:
        """Do one job; after a loss rest for a while, since a restarting worker refuses at once."""
        try:
            answer = await lane.worker.answer(job)
        except BaseException as error:
            stage.give_back(job)
            lane.in_hand -= 1
            if not isinstance(error, WorkerLost):
                raise
            lane.gone = lane.gone or isinstance(error, WorkerGone)
            self._on_lost(lane.worker.index, error)
            losses[job.index] += 1
            if losses[job.index] >= self._attempts:
                raise ResourceError(
                    f"micro-batch {job.index} of stage {job.stage} lost its worker {self._attempts} times: lower "
                    f"gradients.batch_tokens, give workers more memory, or raise workers.attempts; then run again"
                ) from error
            lane.resting = True
            await asyncio.sleep(self._back_off_s)
            lane.resting = False
            return
        lane.in_hand -= 1
        stage.tell(job, answer)
