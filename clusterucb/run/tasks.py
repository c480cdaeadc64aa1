"""What the coordinator asks of a worker, and the jobs that carry it.

Tasks are plain frozen data, so that they travel between processes. A `Job` is compared by identity: it is handed out,
and told or given back, exactly once at a time. The answer to a task names every sample of it once, as computed or as
failed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from clusterucb.gradients.padding import some
from clusterucb.gradients.targets import TargetPart
from clusterucb.run.part_names import FIRST
from clusterucb.types import Failure, Hidden, IntArray, Scores, TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTask:
    """Take gradients and compare them with the target bank named by its fingerprint."""

    batch: TokenBatch
    bank: str


@dataclass(frozen=True, slots=True, eq=False)
class TargetTask:
    """Take plain gradients of examples of one subtask and sum the unit vectors."""

    batch: TokenBatch
    subtask: str


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTask:
    """Compute a part of the features from tokens, which are those of the part's own model."""

    batch: TokenBatch
    part: str = FIRST


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingTask:
    """Embed texts with the encoder of a part of the features."""

    samples_B: IntArray
    texts: tuple[str, ...]
    part: str = FIRST


Task = ScoreTask | TargetTask | FeatureTask | EmbeddingTask
Answer = Scores | TargetPart | Hidden


def samples_of(task: Task) -> IntArray:
    """Return the samples of a task, in its order."""
    return task.samples_B if isinstance(task, EmbeddingTask) else task.batch.samples_B


def part_of(task: Task, rows: IntArray) -> Task:
    """Return the same task over some of its rows, in the given order."""
    if isinstance(task, EmbeddingTask):
        return replace(task, samples_B=task.samples_B[rows], texts=tuple(task.texts[int(row)] for row in rows))
    return replace(task, batch=some(task.batch, rows))


def with_failures(answer: Answer | None, task: Task, failures: Sequence[Failure]) -> Answer:
    """Return what `answer` says of the task's other samples, and these failures; None where no other is left.

    Without other samples nothing is known of widths: such an answer holds arrays of no rows and no columns.
    """
    found = _nothing(task) if answer is None else answer
    place = {sample: row for row, sample in enumerate(samples_of(task).tolist())}
    together = tuple(sorted((*found.failures, *failures), key=lambda failure: place[failure.sample]))
    named = [*found.samples_B.tolist(), *(failure.sample for failure in together)]
    assert sorted(named) == sorted(place), "an answer names every sample of its task once"
    return replace(found, failures=together)


def _nothing(task: Task) -> Answer:
    none_B, none = np.empty(0, np.int64), np.empty(0, np.float32)
    match task:
        case ScoreTask():
            return Scores(none_B, none.reshape(0, 0), none, none, sketch_BD=None, failures=(), seconds=0.0)
        case TargetTask():
            return TargetPart(task.subtask, none_B, none, sums={}, sketch_sum_D=None, failures=(), seconds=0.0)
        case FeatureTask() | EmbeddingTask():
            return Hidden(none_B, np.empty((0, 0), np.float16), failures=(), seconds=0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One task of a stage; `index` orders the jobs of a stage as planned."""

    stage: str
    index: int
    task: Task


class Stage(Protocol):
    """Work that is asked for, told and given back. No model, no clock, no Ray.

    `ask` answers None while nothing can be handed out: either a told or given-back job will change that, or the
    stage is done.
    """

    name: str

    def ask(self) -> Job | None:
        """Hand out the next job."""
        ...

    def tell_many(self, pairs: Sequence[tuple[Job, Answer]]) -> None:
        """Accept the answers to some jobs; all are on disk when this returns, at the price of one wait for it."""
        ...

    def tell(self, job: Job, answer: Answer) -> None:
        """Accept the answer to one job."""
        self.tell_many([(job, answer)])

    def give_back(self, job: Job) -> None:
        """Return a job whose worker was lost; it will be handed out again."""
        ...

    @property
    def done(self) -> bool:
        """Whether every job was told and none can follow."""
        ...
