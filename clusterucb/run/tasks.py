"""What the coordinator asks of a worker, and the jobs that carry it.

Tasks are plain frozen data, so that they travel between processes. A `Job` is compared by identity: it is handed out,
and told or given back, exactly once at a time.
"""

from dataclasses import dataclass
from typing import Protocol

from clusterucb.gradients.targets import TargetPart
from clusterucb.types import Hidden, IntArray, Scores, TokenBatch


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
class HiddenTask:
    """Pool hidden states: forward only."""

    batch: TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingTask:
    """Embed texts with the configured encoder."""

    samples_B: IntArray
    texts: tuple[str, ...]


Task = ScoreTask | TargetTask | HiddenTask | EmbeddingTask
Answer = Scores | TargetPart | Hidden


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

    def tell(self, job: Job, answer: Answer) -> None:
        """Accept the answer to a job; it is on disk when this returns."""
        ...

    def give_back(self, job: Job) -> None:
        """Return a job whose worker was lost; it will be handed out again."""
        ...

    @property
    def done(self) -> bool:
        """Whether every job was told and none can follow."""
        ...
