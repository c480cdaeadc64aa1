"""Features that workers compute: hidden states of the model, or sentence embeddings."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from clusterucb.config import EmbeddingFeatures, RunConfig
from clusterucb.data.messages import Message
from clusterucb.data.rows import RowReader, read_rows
from clusterucb.data.tokens import TokenStore
from clusterucb.run.batching import micro_batches
from clusterucb.run.costs import cost_of, save_cost
from clusterucb.run.events import Emit, StageFinished, StageStarted
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.stages import Answers, FixedStage, progress
from clusterucb.run.tasks import Answer, EmbeddingTask, HiddenTask, Stage, Task
from clusterucb.types import Hidden, IntArray


def feature_stage(
    config: RunConfig, pool: TokenStore, usable: IntArray, folder: RunFolder, store: FeatureStore, emit: Emit
) -> Iterator[Stage]:
    """Yield the stage that fills the store, where workers are needed for it."""
    features = config.features
    if store.complete:
        return
    assert features.kind in ("hidden", "embedding"), "what the user brings is in the store, gradients are scores"
    batches, task = feature_batches(config, pool, usable), feature_task(config, pool)

    def accept(answers: Answers) -> None:
        store.append([(index, _hidden(answer)) for index, answer in answers])
        for index, answer in answers:
            emit(progress("features", answer, int(pool.lengths_N[batches[index]].sum())))

    done = store.open()
    emit(StageStarted(stage="features", total=len(usable), done=sum(len(batches[index]) for index in done)))
    yield FixedStage("features", [partial(task, batch) for batch in batches], accept, done)
    save_cost(folder, cost_of("features", pool, usable, backward=False, seconds=store.seconds()))
    store.consolidate()
    emit(StageFinished(stage="features"))


def _hidden(answer: Answer) -> Hidden:
    assert isinstance(answer, Hidden)
    return answer


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
