"""How long a micro-batch may take: many times what its kind took so far, never less than a minimum."""

from collections import defaultdict

from clusterucb.run.tasks import EmbeddingTask, FeatureTask, Task


class Pace:
    """Seconds a unit of work, learned from answers, by kind of task."""

    def __init__(self, factor: float, minimum_s: float, unknown_s: float) -> None:
        self._factor = factor
        self._minimum_s = minimum_s
        self._unknown_s = unknown_s
        self._seconds: dict[str, float] = defaultdict(float)
        self._work: dict[str, int] = defaultdict(int)

    def saw(self, task: Task, seconds: float) -> None:
        """Learn from a task that was answered after `seconds`."""
        kind = _kind(task)
        self._seconds[kind] += seconds
        self._work[kind] += _work(task)

    def limit_s(self, task: Task) -> float:
        """Return the seconds after which a worker that still holds the task is hung."""
        kind = _kind(task)
        if not self._work[kind]:
            return max(self._unknown_s, self._minimum_s)
        expected = _work(task) * self._seconds[kind] / self._work[kind]
        return max(self._minimum_s, self._factor * expected)


def _kind(task: Task) -> str:
    """Name what tasks of like cost have in common; every part of the features has a model or a depth of its own."""
    part = f" {task.part}" if isinstance(task, FeatureTask | EmbeddingTask) else ""
    return f"{type(task).__name__}{part}"


def _work(task: Task) -> int:
    """Return the size of a task: tokens, or characters where there are none yet."""
    if isinstance(task, EmbeddingTask):
        return max(1, sum(map(len, task.texts)))
    return max(1, len(task.batch.tokens_T))
