"""Features of the pool, from whichever source the configuration names."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from clusterucb.batching import micro_batches
from clusterucb.config import EmbeddingFeatures, RunConfig
from clusterucb.costs import cost_of, save_cost
from clusterucb.errors import DataError
from clusterucb.events import Emit, Progressed, StageFinished, StageStarted
from clusterucb.feature_store import FeatureStore
from clusterucb.messages import Message
from clusterucb.rows import RowReader, read_rows
from clusterucb.run_folder import RunFolder
from clusterucb.score_log import ScoreArchive
from clusterucb.stages import FixedStage
from clusterucb.tasks import Answer, EmbeddingTask, HiddenTask, Stage, Task
from clusterucb.tokens import TokenStore
from clusterucb.types import FloatArray, HalfArray, Hidden, IntArray


def feature_stage(
    config: RunConfig, pool: TokenStore, usable: IntArray, state: Path, store: FeatureStore, emit: Emit
) -> Iterator[Stage]:
    """Yield the stage that fills the store, where workers are needed for it."""
    features = config.features
    if store.complete:
        return
    if features.kind == "given":
        column = read_rows(config.pool).column(features.field)
        store.write([(usable, _unit(column[usable]))], ())
        return
    if features.kind == "gradient":
        assert features.path is not None, "gradients at this checkpoint are scores, not features"
        store.write(reused_sketches(Path(features.path), pool, usable), ())
        return
    batches, task = feature_batches(config, pool, usable), feature_task(config, pool)

    def accept(index: int, answer: Answer) -> None:
        assert isinstance(answer, Hidden)
        store.append(index, answer)
        batch = batches[index]
        emit(
            Progressed(
                stage="features",
                samples=len(batch),
                tokens=int(pool.lengths_N[batch].sum()),
                seconds=answer.seconds,
                failed=len(answer.failures),
            )
        )

    done = store.open()
    emit(StageStarted(stage="features", total=len(usable), done=sum(len(batches[index]) for index in done)))
    yield FixedStage("features", [partial(task, batch) for batch in batches], accept, done)
    seconds = store.consolidate()
    save_cost(state, cost_of("features", pool, usable, backward=False, seconds=seconds))
    emit(StageFinished(stage="features"))


def feature_batches(config: RunConfig, pool: TokenStore, usable: IntArray) -> list[IntArray]:
    """Return the stage's micro-batches."""
    if not isinstance(config.features, EmbeddingFeatures):
        return micro_batches(usable, pool.lengths_N, config.gradients.batch_tokens)
    longest_first = usable[np.lexsort((usable, -pool.lengths_N[usable]))]
    starts = range(0, len(longest_first), config.features.batch_size)
    return [longest_first[start : start + config.features.batch_size] for start in starts]


def feature_task(config: RunConfig, pool: TokenStore) -> Callable[[IntArray], Task]:
    """Return what makes the task of a micro-batch."""
    if not isinstance(config.features, EmbeddingFeatures):
        return lambda batch: HiddenTask(pool.batch(batch))
    rows = read_rows(config.pool)
    return lambda batch: EmbeddingTask(batch, _texts(rows, batch))


def _texts(rows: RowReader, batch: IntArray) -> tuple[str, ...]:
    """Return each sample's messages as one text, in the batch's order."""

    def text(messages: tuple[Message, ...]) -> str:
        return "\n\n".join(message.content for message in messages)

    return tuple(text(messages) for messages in rows.messages(batch.tolist()))


def _unit(features_NF: FloatArray) -> FloatArray:
    norms = np.linalg.norm(features_NF, axis=1, keepdims=True)
    return features_NF / np.maximum(norms, np.finfo(np.float32).tiny)


def reused_sketches(
    path: Path, pool: TokenStore, usable: IntArray
) -> Iterator[tuple[IntArray, HalfArray | FloatArray]]:
    """Yield blocks of (samples of this pool, sketches) from a `.npy` matrix of N rows or from another run's folder.

    Raises DataError where a usable sample of this pool has no sketch there.
    """
    if path.is_file():
        yield from _from_matrix(path, pool, usable)
        return
    folder = RunFolder(path)
    if not folder.exists:
        raise DataError(f"features.path {path} is neither a .npy file nor a run folder: name one that holds sketches")
    here = {name: sample for sample, name in enumerate(pool.ids)}
    there = TokenStore.open(folder.state / "pool").ids
    found = np.zeros(pool.num_samples, dtype=bool)
    for samples_B, sketch_BD in ScoreArchive(folder.state).sketches():
        at = np.asarray([here.get(name, -1) for name in there.take(samples_B)], dtype=np.int64)
        found[at[at >= 0]] = True
        yield at[at >= 0], sketch_BD[at >= 0]
    missing = usable[~found[usable]]
    if len(missing):
        raise DataError(
            f"features.path {path} has no sketch of {len(missing)} of {len(usable)} samples, "
            f"{pool.ids[int(missing[0])]} among them: name a run with features.kind gradient over the same pool"
        )


def _from_matrix(path: Path, pool: TokenStore, usable: IntArray) -> Iterator[tuple[IntArray, FloatArray]]:
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(f"features.path {path} is not a .npy matrix: {error}") from None
    if matrix.ndim != 2 or len(matrix) != pool.num_samples:
        raise DataError(
            f"features.path {path} has shape {matrix.shape}: it needs a row for each of the {pool.num_samples} samples"
        )
    for block in np.array_split(usable, max(1, len(usable) // 4096)):
        rows: FloatArray = np.asarray(matrix[block], dtype=np.float32)
        if not np.isfinite(rows).all():
            bad = int(block[~np.isfinite(rows).all(axis=1)][0])
            raise DataError(f"features.path {path} row {bad} has a number that is not finite: repair or exclude it")
        yield block, _unit(rows)
