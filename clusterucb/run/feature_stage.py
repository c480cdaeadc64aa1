"""Features that workers compute, a stage a part: states and output gradients of the model, gradients of a proxy,
sentence embeddings; of the pool, and of the target where they are matched with it."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from clusterucb.config import EmbeddingFeatures, ProxyFeatures, RunConfig
from clusterucb.data.messages import Message
from clusterucb.data.rows import RowReader, read_rows
from clusterucb.data.target_rows import examples
from clusterucb.data.tokens import TokenStore
from clusterucb.run.batching import micro_batches
from clusterucb.run.costs import cost_of, save_cost
from clusterucb.run.events import Emit, StageFinished, StageStarted
from clusterucb.run.feature_parts import PreparedPart
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.stages import Answers, FixedStage, progress
from clusterucb.run.tasks import Answer, EmbeddingTask, FeatureTask, Stage, Task
from clusterucb.types import Hidden, IntArray


def feature_store(part: PreparedPart, folder: RunFolder) -> FeatureStore:
    """Return where a part's features are kept."""
    return FeatureStore(folder.state, part.tokens.num_samples, folder.replica, part.stage)


def feature_stage(
    config: RunConfig, part: PreparedPart, rows: TokenStore, folder: RunFolder, emit: Emit
) -> Iterator[Stage]:
    """Yield the stage that fills a part's store, where workers are needed for it; `rows` are the pool or the target."""
    store = feature_store(part, folder)
    if store.complete:
        return
    assert part.computed, "what the user brings is in the store, gradients are scores"
    samples = part.samples(rows)
    batches, task = feature_batches(config, part, rows), feature_task(config, part)

    def accept(answers: Answers) -> None:
        store.append([(index, _hidden(answer)) for index, answer in answers])
        for index, answer in answers:
            emit(progress(part.stage, answer, int(part.tokens.lengths_N[batches[index]].sum())))

    done = store.open()
    emit(StageStarted(stage=part.stage, total=len(samples), done=sum(len(batches[index]) for index in done)))
    yield FixedStage(part.stage, [partial(task, batch) for batch in batches], accept, done)
    seconds = store.seconds()
    save_cost(
        folder,
        cost_of(part.stage, part.tokens, samples, backward=part.backward, seconds=seconds, share=part.share),
    )
    store.consolidate(part.failures(rows))
    emit(StageFinished(stage=part.stage))


def feature_stages(
    config: RunConfig, parts: Sequence[PreparedPart], rows: TokenStore, folder: RunFolder, emit: Emit
) -> Iterator[Stage]:
    """Yield the stages of all parts, in their order."""
    for part in parts:
        yield from feature_stage(config, part, rows, folder, emit)


def _hidden(answer: Answer) -> Hidden:
    assert isinstance(answer, Hidden)
    return answer


def feature_batches(config: RunConfig, part: PreparedPart, rows: TokenStore) -> list[IntArray]:
    """Return the micro-batches of a part's stage."""
    samples, lengths_N = part.samples(rows), part.tokens.lengths_N
    if isinstance(part.features, ProxyFeatures):
        return micro_batches(samples, lengths_N, part.features.batch_tokens)
    if not isinstance(part.features, EmbeddingFeatures):
        return micro_batches(samples, lengths_N, config.gradients.batch_tokens)
    longest_first = samples[np.lexsort((samples, -lengths_N[samples]))]
    starts = range(0, len(longest_first), part.features.batch_size)
    return [longest_first[start : start + part.features.batch_size] for start in starts]


def feature_task(config: RunConfig, part: PreparedPart) -> Callable[[IntArray], Task]:
    """Return what makes the task of a micro-batch."""
    if not isinstance(part.features, EmbeddingFeatures):
        return lambda batch: FeatureTask(part.tokens.batch(batch), part.name)
    if part.side == "target":  # a few examples, perhaps of several files
        texts = np.array([_text(row.messages) for row in examples(config)], dtype=object)
        return lambda batch: EmbeddingTask(batch, tuple(texts[batch].tolist()), part.name)
    rows = read_rows(config.pool)
    return lambda batch: EmbeddingTask(batch, _texts(rows, batch), part.name)


def _texts(rows: RowReader, batch: IntArray) -> tuple[str, ...]:
    """Return each sample's messages as one text, in the batch's order."""
    return tuple(_text(messages) for messages in rows.messages(batch.tolist()))


def _text(messages: tuple[Message, ...]) -> str:
    return "\n\n".join(message.content for message in messages)
