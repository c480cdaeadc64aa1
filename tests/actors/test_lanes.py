"""Dispatch: every job is told exactly once, whatever happens to the workers."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from actors.lanes import Dispatcher, WorkerGone, WorkerLost
from clusterucb.errors import ResourceError
from clusterucb.run.stages import FixedStage
from clusterucb.run.tasks import EmbeddingTask, Job
from clusterucb.types import Hidden


def nothing_scored() -> Hidden:
    return Hidden(np.empty(0, np.int64), np.empty((0, 1), np.float16), (), 0.0)


class FlakyWorker:
    """Loses every n-th job, once it is in hand; dies for good after `lifetime` jobs."""

    def __init__(self, index: int, lose_every: int = 0, lifetime: int = 10**9) -> None:
        self.index = index
        self.jobs = 0
        self.in_hand = 0
        self.most_in_hand = 0
        self._lose_every = lose_every
        self._lifetime = lifetime

    async def answer(self, job: Job) -> Hidden:
        self.jobs += 1
        self.in_hand += 1
        self.most_in_hand = max(self.most_in_hand, self.in_hand)
        number = self.jobs
        await asyncio.sleep(0.001 * (1 + job.index % 3))
        self.in_hand -= 1
        if number > self._lifetime:
            raise WorkerGone("dead")
        if self._lose_every and number % self._lose_every == 0:
            raise WorkerLost("restarting")
        return nothing_scored()


def stage_of(count: int, told: Counter[int]) -> FixedStage:
    task = EmbeddingTask(np.empty(0, np.int64), ())
    return FixedStage("stage", [lambda: task] * count, lambda answers: told.update(index for index, _ in answers))


def dispatcher(workers: list[FlakyWorker], losses: list[int], attempts: int = 10) -> Dispatcher:
    return Dispatcher(workers, 2, attempts, lambda index, _: losses.append(index), back_off_s=0.001)


@pytest.mark.parametrize("lose_every", [0, 3])
async def test_every_job_is_told_once_and_no_worker_is_overloaded(lose_every: int):
    told: Counter[int] = Counter()
    workers = [FlakyWorker(i, lose_every) for i in range(3)]
    losses: list[int] = []
    await dispatcher(workers, losses).drain(stage_of(50, told))
    assert told == Counter(range(50))
    assert max(worker.most_in_hand for worker in workers) <= 2
    assert bool(losses) == bool(lose_every)


async def test_few_jobs_are_spread_over_the_workers():
    told: Counter[int] = Counter()
    workers = [FlakyWorker(i) for i in range(4)]
    both = dispatcher(workers, [])
    for _ in range(10):
        await both.drain(stage_of(4, told))
    assert [worker.jobs for worker in workers] == [10] * 4


async def test_the_others_finish_what_a_dead_worker_held():
    told: Counter[int] = Counter()
    losses: list[int] = []
    dying = FlakyWorker(0, lifetime=3)
    await dispatcher([dying, FlakyWorker(1)], losses).drain(stage_of(40, told))
    assert told == Counter(range(40))
    assert dying.jobs <= 3 + 2
    assert set(losses) == {0}


async def test_a_dead_worker_gets_nothing_in_the_next_stage():
    told: Counter[int] = Counter()
    dying = FlakyWorker(0, lifetime=0)
    both = dispatcher([dying, FlakyWorker(1)], [])
    await both.drain(stage_of(5, told))
    jobs = dying.jobs
    await both.drain(stage_of(5, told))
    assert dying.jobs == jobs
    assert told == Counter([*range(5), *range(5)])


async def test_no_worker_left_is_an_error_that_names_the_stage():
    with pytest.raises(ResourceError, match=r"all 2 workers are gone in stage stage"):
        await dispatcher([FlakyWorker(i, lifetime=2) for i in range(2)], []).drain(stage_of(30, Counter()))


async def test_a_job_that_keeps_losing_workers_ends_the_run():
    with pytest.raises(ResourceError, match=r"lost its worker 4 times"):
        await dispatcher([FlakyWorker(0, lose_every=1)], [], attempts=4).drain(stage_of(1, Counter()))


async def test_an_error_of_the_job_itself_is_raised_and_the_job_given_back():
    class Broken(FlakyWorker):
        async def answer(self, job: Job) -> Hidden:
            raise ValueError("bad maths")

    stage = stage_of(3, Counter())
    with pytest.raises(ValueError, match="bad maths"):
        await dispatcher([Broken(0)], []).drain(stage)
    assert stage.ask() is not None
