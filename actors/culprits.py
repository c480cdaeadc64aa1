"""Which samples of a micro-batch end their worker: found by halving, confirmed alone.

Invariants: a sample is accused only after `attempts` deaths with nothing else in the worker's hands; what remains is
computed together, in one piece, so that the same culprits always leave the same numbers, however they were found.
"""

from collections.abc import Awaitable, Callable

import numpy as np

from clusterucb.errors import ResourceError
from clusterucb.run.tasks import Answer, Job, Task, part_of, samples_of, with_failures
from clusterucb.types import Failure, IntArray

Alone = Callable[[Task], Awaitable[Answer | None]]
"""Tries a task on a worker that holds nothing else; None where the worker was lost."""


async def without_culprits(job: Job, alone: Alone, attempts: int) -> Answer:
    """Return the answer to the job, the samples that end their worker excluded by name.

    Raises ResourceError where the micro-batch ends its worker and none of its samples does so alone.
    """
    task = job.task
    samples_B = samples_of(task)
    if (answer := await alone(task)) is not None:
        return answer  # something else ended the workers
    culprits = await _culprits(task, np.arange(len(samples_B)), alone, attempts)
    rest = np.setdiff1d(np.arange(len(samples_B)), culprits)
    detail = f"its worker died {attempts} times with this sample alone"
    failures = tuple(Failure(int(samples_B[row]), "worker_lost", detail) for row in culprits)
    if not len(rest):
        return with_failures(None, task, failures)
    for _ in range(attempts):
        if (answer := await alone(part_of(task, rest))) is not None:
            return with_failures(answer, task, failures)
    raise ResourceError(
        f"micro-batch {job.index} of stage {job.stage} ({len(rest)} samples) ends its worker, though none of its "
        f"samples does so alone: lower gradients.batch_tokens or give workers more memory (workers.memory_gib)"
    )


async def _culprits(task: Task, rows: IntArray, alone: Alone, attempts: int) -> IntArray:
    """Return the rows, among some that are suspected together, that end their worker."""
    if len(rows) == 1:
        for _ in range(attempts):
            if await alone(part_of(task, rows)) is not None:
                return rows[:0]
        return rows
    found = [rows[:0]]
    for half in np.array_split(rows, 2):
        if len(half) == 1 or await alone(part_of(task, half)) is None:
            found.append(await _culprits(task, half, alone, attempts))
    return np.concatenate(found)
