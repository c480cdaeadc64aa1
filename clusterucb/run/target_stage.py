"""The target bank: plain gradients of the target examples, subtask by subtask.

The sum of a subtask's unit gradients is made of fixed parts added in planned order, so that any number of workers
gives the same bank.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from clusterucb.data.tokens import TokenStore
from clusterucb.errors import RunFolderError
from clusterucb.gradients.targets import TargetBank, TargetPart, combine
from clusterucb.run.batching import micro_batches
from clusterucb.run.costs import cost_of, save_cost
from clusterucb.run.disk import writing
from clusterucb.run.events import Emit, Note, StageFinished, StageStarted
from clusterucb.run.prepared import target_subtasks
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.stages import Answers, FixedStage, progress
from clusterucb.run.tasks import Stage, TargetTask, Task
from clusterucb.types import IntArray


def target_stage(target: TokenStore, batch_tokens: int, folder: RunFolder, emit: Emit) -> Iterator[Stage]:
    """Yield the stage that makes `target.safetensors`, unless it is there."""
    path = folder.state / "target.safetensors"
    if path.exists():
        return
    usable = np.flatnonzero(target.usable_N)
    plan = target_batches(target, batch_tokens)
    parts: dict[int, TargetPart] = {}

    def task(name: str, batch: IntArray) -> Callable[[], Task]:
        return lambda: TargetTask(target.batch(batch), name)

    def accept(answers: Answers) -> None:
        for index, answer in answers:
            assert isinstance(answer, TargetPart)
            parts[index] = answer
            emit(progress("target", answer, int(target.lengths_N[plan[index][1]].sum())))

    emit(StageStarted(stage="target", total=len(usable), done=0))
    yield FixedStage("target", [task(*each) for each in plan], accept)
    ordered = [parts[index] for index in range(len(plan))]
    for failure in (failure for part in ordered for failure in part.failures):
        emit(Note(text=f"target: excluded {target.ids[failure.sample]}: {failure.reason} {failure.detail}".rstrip()))
    bank = combine(tuple(target_subtasks(target)), ordered)
    save_cost(folder, cost_of("target", target, usable, backward=True, seconds=sum(part.seconds for part in ordered)))
    with writing(path):
        bank.save(path)
    folder.replica.put(path)
    emit(StageFinished(stage="target"))


def target_batches(target: TokenStore, batch_tokens: int) -> list[tuple[str, IntArray]]:
    """Return the stage's micro-batches with the subtask of each."""
    return [
        (name, batch)
        for name, rows in target_subtasks(target).items()
        for batch in micro_batches(rows[target.usable_N[rows]], target.lengths_N, batch_tokens)
    ]


def load_bank(state: Path) -> TargetBank:
    """Return the bank of a run whose target stage is drained."""
    path = state / "target.safetensors"
    try:
        return TargetBank.load(path)
    except SafetensorError as error:
        raise RunFolderError(f"{path} is damaged ({error}): delete it to compute the target again") from None
