"""A task dealt out over the ranks of a gang, and their answers put together as if one worker had given them.

Invariant: a task that is dealt, answered in parts and joined names the same samples in the same order as the task
answered whole.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clusterucb.gradients.padding import some
from clusterucb.gradients.targets import TargetPart
from clusterucb.run.tasks import Answer, EmbeddingTask, Task
from clusterucb.types import FloatArray, Hidden, IntArray, Scores

Number = TypeVar("Number", bound=np.generic)


def deal(task: Task, ranks: int) -> list[Task]:
    """Deal the samples out in turn, so that shares are about equally long; some may get none."""
    parts = [slice(rank, None, ranks) for rank in range(ranks)]
    if isinstance(task, EmbeddingTask):
        return [replace(task, samples_B=task.samples_B[part], texts=task.texts[part]) for part in parts]
    rows = np.arange(len(task.batch))
    return [replace(task, batch=some(task.batch, rows[part])) for part in parts]


def join(task: Task, answers: Sequence[Answer]) -> Answer:
    """Put the ranks' answers to a dealt task together; sums are taken in the order of the ranks."""
    asked_B = task.samples_B if isinstance(task, EmbeddingTask) else task.batch.samples_B
    place = {int(sample): i for i, sample in enumerate(asked_B)}
    order = np.argsort([place[int(sample)] for answer in answers for sample in answer.samples_B], kind="stable")
    scores = [answer for answer in answers if isinstance(answer, Scores)]
    targets = [answer for answer in answers if isinstance(answer, TargetPart)]
    hidden = [answer for answer in answers if isinstance(answer, Hidden)]
    assert len(answers) in (len(scores), len(targets), len(hidden)), "the ranks answered different tasks"
    joined = _scores(scores, order) if scores else _target(targets, order) if targets else _hidden(hidden, order)
    failures = sorted((failure for answer in answers for failure in answer.failures), key=lambda one: place[one.sample])
    return replace(joined, failures=tuple(failures), seconds=max(answer.seconds for answer in answers))


def _scores(parts: Sequence[Scores], order: IntArray) -> Scores:
    sketches = [part.sketch_BD for part in parts if part.sketch_BD is not None]
    return replace(
        parts[0],
        samples_B=_ordered([part.samples_B for part in parts], order),
        influence_BS=_ordered([part.influence_BS for part in parts], order),
        squared_norm_B=_ordered([part.squared_norm_B for part in parts], order),
        loss_B=_ordered([part.loss_B for part in parts], order),
        sketch_BD=_ordered(sketches, order) if sketches else None,
    )


def _target(parts: Sequence[TargetPart], order: IntArray) -> TargetPart:
    sketches = [part.sketch_sum_D for part in parts if part.sketch_sum_D is not None]
    return replace(
        parts[0],
        samples_B=_ordered([part.samples_B for part in parts], order),
        loss_B=_ordered([part.loss_B for part in parts], order),
        sums={name: _summed([part.sums[name] for part in parts]) for name in parts[0].sums},
        sketch_sum_D=_summed(sketches) if sketches else None,
    )


def _hidden(parts: Sequence[Hidden], order: IntArray) -> Hidden:
    return replace(
        parts[0],
        samples_B=_ordered([part.samples_B for part in parts], order),
        features_BF=_ordered([part.features_BF for part in parts], order),
    )


def _ordered(parts: Sequence[npt.NDArray[Number]], order: IntArray) -> npt.NDArray[Number]:
    return np.concatenate(parts)[order]


def _summed(parts: Sequence[FloatArray]) -> FloatArray:
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
