"""Bounded dispatch of a stage's jobs over workers that may be lost. Knows asyncio, not Ray.

Invariants: every job that is asked for is told or given back exactly once; a lost worker's jobs go to others; no
worker ever holds more than `in_flight` jobs.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from clusterucb.errors import ResourceError
from clusterucb.tasks import Answer, Job, Stage


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
        self._workers = list(workers)
        self._in_flight = in_flight
        self._attempts = attempts
        self._on_lost = on_lost
        self._back_off_s = back_off_s
        self._gone: set[int] = set()

    async def drain(self, stage: Stage) -> None:
        """Run a stage to its end. Raises ResourceError when no worker is left or a job has lost too many of them."""
        changed = asyncio.Condition()
        losses: Counter[int] = Counter()

        async def lane(worker: LaneWorker) -> None:
            while worker.index not in self._gone:
                async with changed:
                    while (job := stage.ask()) is None and not stage.done:
                        await changed.wait()
                if job is None:
                    return
                lost = await self._attempt(stage, job, worker, losses)
                async with changed:
                    changed.notify_all()
                if lost:
                    await asyncio.sleep(self._back_off_s)  # a restarting worker refuses at once

        lanes = [
            lane(worker) for worker in self._workers if worker.index not in self._gone for _ in range(self._in_flight)
        ]
        await _first_error(lanes)
        if not stage.done:
            raise ResourceError(
                f"all {len(self._workers)} workers are gone in stage {stage.name}: look at their logs, give them more "
                f"memory (workers.memory_gib) or smaller batches (gradients.batch_tokens), then run again"
            )

    async def _attempt(self, stage: Stage, job: Job, worker: LaneWorker, losses: Counter[int]) -> bool:
        """Do one job; return whether the worker was lost over it."""
        try:
            answer = await worker.answer(job)
        except BaseException as error:
            stage.give_back(job)
            if not isinstance(error, WorkerLost):
                raise
            if isinstance(error, WorkerGone):
                self._gone.add(worker.index)
            losses[job.index] += 1
            self._on_lost(worker.index, error)
            if losses[job.index] >= self._attempts:
                raise ResourceError(
                    f"micro-batch {job.index} of stage {job.stage} lost its worker {self._attempts} times: lower "
                    f"gradients.batch_tokens, give workers more memory, or raise workers.attempts; then run again"
                ) from error
            return True
        stage.tell(job, answer)
        return False


async def _first_error(lanes: Sequence[Coroutine[None, None, None]]) -> None:
    """Run lanes together; when one fails, cancel the others and raise that error alone."""
    try:
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(lane)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
