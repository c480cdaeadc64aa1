"""Dispatch: every job is told exactly once, whatever happens to the workers; who is to blame is found out."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.lanes import Dispatcher, LossKind, WorkerLost
from clusterucb.errors import ResourceError
from clusterucb.run.stages import FixedStage
from clusterucb.run.tasks import Answer, EmbeddingTask, Job, Stage, samples_of
from clusterucb.types import Hidden, IntArray


def features_of(samples_B: IntArray) -> Hidden:
    """A sample's feature tells the size of the batch that it was computed in."""
    features_BF = np.full((len(samples_B), 1), len(samples_B), np.float16)
    return Hidden(samples_B, features_BF, (), 0.0)


class Heard:
    """Notices, kept."""

    def __init__(self) -> None:
        self.suspects: list[int] = []
        self.idle_times = 0
        self.most_out = 0

    def suspected(self, job: Job) -> None:
        self.suspects.append(job.index)

    def idle(self) -> None:
        self.idle_times += 1

    def load(self, jobs: int, workers: int, busy: int) -> None:
        assert busy <= workers
        assert busy <= jobs
        self.most_out = max(self.most_out, jobs)


class FlakyWorker:
    """Loses every n-th job with its process, and any job with a poison sample; starts again after a moment."""

    def __init__(
        self, dispatcher: Dispatcher, lose_every: int = 0, poison: Sequence[int] = (), kind: LossKind = "died"
    ) -> None:
        self.on_trial = False
        self.jobs = 0
        self.in_hand = 0
        self.most_in_hand = 0
        self.losses = 0
        self._dispatcher = dispatcher
        self._lose_every = lose_every
        self._poison = frozenset(poison)
        self._kind: LossKind = kind
        self._life = 0

    async def answer(self, job: Job) -> Answer:
        life = self._life
        self.jobs += 1
        self.in_hand += 1
        self.most_in_hand = max(self.most_in_hand, self.in_hand)
        number = self.jobs
        await asyncio.sleep(0.0005 * (1 + job.index % 3))
        self.in_hand -= 1
        samples_B = samples_of(job.task)
        lost = self._poison & set(samples_B.tolist()) or (self._lose_every and number % self._lose_every == 0)
        if life == self._life and not lost:
            return features_of(samples_B)
        if life == self._life:  # what else it holds is lost with the same process
            self._life += 1
            self.losses += 1
            self._dispatcher.leave(self)
            asyncio.get_running_loop().call_later(0.002, self._return)
        raise WorkerLost("killed", self._kind)

    def _return(self) -> None:
        self.on_trial = False
        self._dispatcher.join(self)


def stage_of(sizes: Sequence[int], told: dict[int, Hidden], times: Counter[int]) -> FixedStage:
    """Jobs of some sizes over consecutive samples."""
    starts = np.cumsum([0, *sizes])

    def task(index: int) -> EmbeddingTask:
        samples_B = np.arange(starts[index], starts[index + 1])
        return EmbeddingTask(samples_B, ("x",) * len(samples_B))

    def accept(answers: Sequence[tuple[int, Answer]]) -> None:
        for index, answer in answers:
            assert isinstance(answer, Hidden)
            told[index] = answer
            times[index] += 1

    return FixedStage("stage", [lambda index=index: task(index) for index in range(len(sizes))], accept)


class Scene:
    """A dispatcher with some workers, and what came of it."""

    def __init__(self, attempts: int = 3) -> None:
        self.heard = Heard()
        self.dispatcher = Dispatcher(2, attempts, self.heard, idle_s=0.01)
        self.told: dict[int, Hidden] = {}
        self.times: Counter[int] = Counter()

    def worker(self, lose_every: int = 0, poison: Sequence[int] = (), kind: LossKind = "died") -> FlakyWorker:
        worker = FlakyWorker(self.dispatcher, lose_every, poison, kind)
        self.dispatcher.join(worker)
        return worker

    async def drain(self, sizes: Sequence[int]) -> None:
        async with asyncio.timeout(30):
            await self.dispatcher.drain(stage_of(sizes, self.told, self.times))


@pytest.mark.parametrize("lose_every", [0, 3])
async def test_every_job_is_told_once_and_no_worker_is_overloaded(lose_every: int):
    scene = Scene(attempts=10)
    workers = [scene.worker(lose_every=lose_every) for _ in range(3)]
    await scene.drain([1] * 50)
    assert scene.times == Counter(range(50))
    assert max(worker.most_in_hand for worker in workers) <= 2
    assert scene.heard.most_out <= 6
    assert bool(sum(worker.losses for worker in workers)) == bool(lose_every)


async def test_few_jobs_are_spread_over_the_workers():
    scene = Scene()
    workers = [scene.worker() for _ in range(4)]
    for _ in range(10):
        await scene.drain([1] * 4)
    assert [worker.jobs for worker in workers] == [10] * 4


async def test_a_worker_that_joins_in_the_middle_is_used_and_one_that_left_is_not():
    scene = Scene()
    first = scene.worker()
    draining = asyncio.create_task(scene.drain([1] * 60))
    await asyncio.sleep(0.005)
    second = scene.worker()
    scene.dispatcher.leave(first)
    before = first.jobs
    await draining
    assert scene.times == Counter(range(60))
    assert first.jobs <= before + 2, "what it was promised before it left"
    assert first.jobs + second.jobs == 60


async def test_without_workers_it_says_so_and_goes_on_when_one_comes():
    scene = Scene()
    draining = asyncio.create_task(scene.drain([1] * 3))
    await asyncio.sleep(0.05)
    assert scene.heard.idle_times >= 2
    assert not scene.told
    scene.worker()
    await draining
    assert scene.times == Counter(range(3))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    poison=st.sets(st.integers(0, 53), max_size=4),
    workers=st.integers(1, 3),
)
def test_exactly_the_poison_is_excluded_and_the_rest_computed_in_one_piece(
    sizes: list[int], poison: set[int], workers: int
):
    async def scene_of() -> Scene:
        scene = Scene()
        for _ in range(workers):
            scene.worker(poison=tuple(poison))
        await scene.drain(sizes)
        return scene

    scene = asyncio.run(scene_of())
    start = 0
    for index, size in enumerate(sizes):
        answer, bad = scene.told[index], sorted(poison & set(range(start, start + size)))
        start += size
        assert [failure.sample for failure in answer.failures] == bad
        assert all(failure.reason == "worker_lost" for failure in answer.failures)
        assert len(answer.samples_B) == size - len(bad)
        assert (answer.features_BF == size - len(bad)).all(), "what remains is computed together"
        if bad:
            assert index in scene.heard.suspects


async def test_a_neighbour_of_the_culprit_is_found_innocent():
    scene = Scene()
    scene.worker(poison=[0])
    await scene.drain([4, 4, 4])
    assert [failure.sample for failure in scene.told[0].failures] == [0]
    assert not scene.told[1].failures
    assert (scene.told[1].features_BF == 4).all()


async def test_a_dead_machine_is_no_jobs_fault():
    scene = Scene(attempts=1)
    scene.worker(lose_every=3, kind="node")
    await scene.drain([2] * 6)
    assert scene.times == Counter(range(6))
    assert not scene.heard.suspects


async def test_a_batch_that_dies_only_as_a_whole_ends_the_run_with_the_way_out():
    class Small(FlakyWorker):
        async def answer(self, job: Job) -> Answer:
            self._poison = frozenset(samples_of(job.task).tolist()) if len(samples_of(job.task)) > 2 else frozenset()
            return await super().answer(job)

    scene = Scene()
    scene.dispatcher.join(Small(scene.dispatcher))
    with pytest.raises(ResourceError, match=r"micro-batch 0 of stage stage \(4 samples\).*gradients\.batch_tokens"):
        await scene.drain([4])


async def test_an_error_of_the_job_itself_is_raised_and_the_job_given_back():
    class Broken(FlakyWorker):
        async def answer(self, job: Job) -> Answer:
            raise ValueError("bad maths")

    scene = Scene()
    scene.dispatcher.join(Broken(scene.dispatcher))
    stage = stage_of([1] * 3, scene.told, scene.times)
    with pytest.raises(ValueError, match="bad maths"):
        await scene.dispatcher.drain(stage)
    assert sorted(job.index for job in iter(stage.ask, None)) == [0, 1, 2]


async def test_a_cancelled_drain_gives_everything_back():
    scene = Scene()
    scene.worker()
    stage = stage_of([1] * 9, scene.told, scene.times)
    draining = asyncio.create_task(scene.dispatcher.drain(stage))
    await asyncio.sleep(0.003)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    left = [job.index for job in iter(stage.ask, None)]
    assert sorted([*left, *scene.told]) == list(range(9))


class EndsWhenAsked(Stage):
    """Finds, when it is asked for work, that there is none: as where every round was logged or kept before."""

    name = "search"
    done = False

    def ask(self) -> Job | None:
        self.done = True
        return None


async def test_a_stage_that_ends_as_it_is_asked_is_not_waited_for():
    dispatcher = Dispatcher(2, 3, Heard())
    dispatcher.join(FlakyWorker(dispatcher))
    await asyncio.wait_for(dispatcher.drain(EndsWhenAsked()), 30)
