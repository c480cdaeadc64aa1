"""Tasks are cut, and their answers are filled up, so that every sample stays named exactly once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterucb.gradients.targets import TargetPart, combine
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.score_log import ScoreArchive, ScoreLog
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.tasks import (
    EmbeddingTask,
    FeatureTask,
    ScoreTask,
    TargetTask,
    Task,
    part_of,
    samples_of,
    with_failures,
)
from clusterucb.types import Failure, Hidden, Scores, TokenBatch

SAMPLES = np.asarray([9, 4, 7, 1], np.int64)
LENGTHS = [3, 1, 2, 4]


def batch() -> TokenBatch:
    tokens = np.concatenate([np.full(n, sample, np.int32) for sample, n in zip(SAMPLES, LENGTHS, strict=True)])
    return TokenBatch(SAMPLES, tokens, tokens > 0, np.concatenate([[0], np.cumsum(LENGTHS)]))


KINDS: list[Callable[[], Task]] = [
    lambda: ScoreTask(batch(), "bank"),
    lambda: TargetTask(batch(), "sums"),
    lambda: FeatureTask(batch()),
    lambda: EmbeddingTask(SAMPLES, tuple(f"text {sample}" for sample in SAMPLES)),
]


def contents(task: Task) -> list[object]:
    """Return what a task says of each sample."""
    if isinstance(task, EmbeddingTask):
        return list(task.texts)
    return [task.batch.row(row)[0].tolist() for row in range(len(task.batch))]


def lost(*samples: int) -> list[Failure]:
    return [Failure(sample, "worker_lost", "it ends its process") for sample in samples]


@pytest.mark.parametrize("kind", KINDS)
@given(rows=st.permutations(range(4)).flatmap(lambda order: st.integers(0, 4).map(lambda n: list(order[:n]))))
def test_a_part_says_of_its_samples_what_the_whole_says(kind: Callable[[], Task], rows: list[int]):
    whole = kind()
    part = part_of(whole, np.asarray(rows, np.int64))
    assert type(part) is type(whole)
    assert samples_of(part).tolist() == SAMPLES[rows].tolist()
    assert contents(part) == [contents(whole)[row] for row in rows]


def scores(samples: list[int], failures: tuple[Failure, ...] = ()) -> Scores:
    ones = np.ones(len(samples), np.float32)
    return Scores(np.asarray(samples, np.int64), ones[:, None] * [[0.5, 0.25]], ones, ones, None, failures, 1.0)


def test_failures_join_the_answer_of_the_others_in_the_order_of_the_task():
    answer = with_failures(scores([7], (Failure(1, "non_finite"),)), KINDS[0](), lost(4, 9))
    assert isinstance(answer, Scores)
    assert answer.samples_B.tolist() == [7]
    assert [failure.sample for failure in answer.failures] == [9, 4, 1]
    assert answer.seconds == 1.0


def test_an_answer_that_forgets_a_sample_is_a_defect():
    with pytest.raises(AssertionError, match="every sample"):
        with_failures(scores([7, 1]), KINDS[0](), lost(4))


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_left_every_sample_failed(kind: Callable[[], Task]):
    answer = with_failures(None, kind(), lost(*SAMPLES.tolist()))
    assert len(answer.samples_B) == 0
    assert [failure.sample for failure in answer.failures] == SAMPLES.tolist()


def test_a_lost_micro_batch_of_scores_is_logged_found_and_counted(tmp_path: Path):
    nothing = with_failures(None, KINDS[0](), lost(*SAMPLES.tolist()))
    assert isinstance(nothing, Scores)
    log = ScoreLog(tmp_path)
    log.append("search", [(0, nothing), (0, scores([2, 3]))])
    log.close()
    archive = ScoreArchive(tmp_path)
    found = archive.find("search", np.sort(SAMPLES))
    assert found is not None
    assert found.failures == nothing.failures
    table = ScoreTable.of(archive, 2)
    assert table.samples_B.tolist() == [2, 3]
    assert [failure.sample for failure in table.failures] == sorted(SAMPLES.tolist())


def test_a_lost_micro_batch_of_features_leaves_the_matrix_to_the_others(tmp_path: Path):
    nothing = with_failures(None, KINDS[2](), lost(*SAMPLES.tolist()))
    assert isinstance(nothing, Hidden)
    store = FeatureStore(tmp_path, 10)
    store.open()
    store.append([(0, nothing), (1, Hidden(np.asarray([2]), np.ones((1, 3), np.float16), (), 0.0))])
    store.consolidate()
    assert store.matrix().shape == (10, 3)
    assert [failure.sample for failure in store.failures()] == SAMPLES.tolist()


def test_a_lost_micro_batch_of_the_target_is_left_out_of_the_mean():
    nothing = with_failures(None, KINDS[1](), lost(*SAMPLES.tolist()))
    assert isinstance(nothing, TargetPart)
    part = TargetPart("sums", np.asarray([0]), np.ones(1, np.float32), {"w": np.full(2, 3, np.float32)}, None, (), 0.0)
    bank = combine(["sums"], [nothing, part])
    assert bank.means["w"].tolist() == [[3.0, 3.0]]
    assert bank.counts == (1,)
