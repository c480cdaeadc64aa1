"""The search stage: in whatever order answers come, are lost or were logged before, the draws are the same."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterucb import config
from clusterucb.data.tokens import TokenStore
from clusterucb.run.score_log import ScoreArchive, ScoreLog
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.stages import FixedStage, SearchStage, score_stage
from clusterucb.run.target_columns import TargetColumns
from clusterucb.run.tasks import EmbeddingTask, Job, ScoreTask
from clusterucb.search import Search
from clusterucb.types import Failure, Hidden, Scores, TokenBatch

N, K = 120, 6
ONE_TARGET = (TargetColumns("", 1.0, ("all",), np.array([0])),)
RNG = np.random.default_rng(7)
LABELS = np.repeat(np.arange(K), N // K).astype(np.int32)
REWARDS = (RNG.normal(size=N) + LABELS).astype(np.float32)
FAILING = frozenset(RNG.choice(N, 9, replace=False).tolist())


class Pool:
    """The part of a token store that stages use."""

    lengths_N = RNG.integers(3, 40, size=N)

    def batch(self, samples: np.ndarray) -> TokenBatch:
        offsets = np.concatenate([[0], np.cumsum(self.lengths_N[samples])])
        total = int(offsets[-1])
        return TokenBatch(np.asarray(samples), np.zeros(total, np.int32), np.ones(total, np.bool_), offsets)


POOL: TokenStore = Pool()  # pyright: ignore[reportAssignmentType]


def answer(job: Job) -> Scores:
    assert isinstance(job.task, ScoreTask)
    samples = job.task.batch.samples_B
    good = np.asarray([sample for sample in samples.tolist() if sample not in FAILING], dtype=np.int64)
    failures = tuple(Failure(int(sample), "non_finite") for sample in samples if int(sample) in FAILING)
    ones = np.ones(len(good), np.float32)
    return Scores(good, REWARDS[good][:, None], ones, ones, None, failures, 0.0)


def stage_over(folder: Path, lag: int) -> tuple[SearchStage, ScoreLog]:
    wanted = config.Search(budget=0.5, rounds=config.Rounds(first=6, lag=lag))  # pyright: ignore[reportArgumentType]
    log = ScoreLog(folder)
    search = Search(LABELS, wanted, 0.1, np.random.default_rng(0))
    return SearchStage(search, POOL, 80, "bank", ONE_TARGET, log, lambda event: None), log


def drain(stage: SearchStage, chance: random.Random, workers: int, stop_after: int | None = None) -> None:
    """Play `workers` that answer in any order and lose a job now and then; stop in the middle where asked."""
    out: list[Job] = []
    while not stage.done:
        while len(out) < workers and (job := stage.ask()) is not None:
            out.append(job)
        job = out.pop(chance.randrange(len(out)))
        if chance.random() < 0.2:
            stage.give_back(job)
            continue
        more = [out.pop() for _ in range(chance.randrange(len(out) + 1))]
        stage.tell_many([(each, answer(each)) for each in (job, *more)])
        if stop_after is not None:
            stop_after -= 1
            if stop_after == 0:
                return


def table_of(folder: Path) -> ScoreTable:
    return ScoreTable.of(ScoreArchive(folder), 1)


@pytest.mark.parametrize("lag", [0, 1])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 7), stop_after=st.integers(1, 12))
def test_draws_depend_on_no_schedule_no_loss_and_no_restart(
    tmp_path_factory: pytest.TempPathFactory, lag: int, seed: int, workers: int, stop_after: int
):
    straight, restarted = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("restarted")
    stage, log = stage_over(straight, lag)
    drain(stage, random.Random(0), 1)
    log.close()
    stage, log = stage_over(restarted, lag)
    drain(stage, random.Random(seed), workers, stop_after)
    log.close()
    stage, log = stage_over(restarted, lag)
    drain(stage, random.Random(seed + 1), workers)
    log.close()
    expected, found = table_of(straight), table_of(restarted)
    np.testing.assert_array_equal(found.samples_B, expected.samples_B)
    np.testing.assert_array_equal(found.round_B, expected.round_B)
    assert found.failures == expected.failures
    assert sum(len(entry.scores.samples_B) for entry in ScoreArchive(restarted)) == len(found.samples_B), (
        "counted twice"
    )


def test_failed_samples_are_replaced_within_the_budget(tmp_path: Path):
    stage, log = stage_over(tmp_path, 0)
    drain(stage, random.Random(0), 2)
    log.close()
    table = table_of(tmp_path)
    assert len(table.samples_B) == N // 2
    assert not FAILING & set(table.samples_B.tolist())


def test_a_scored_batch_is_not_handed_out_again(tmp_path: Path):
    log = ScoreLog(tmp_path)
    first = score_stage("audit", np.arange(20), POOL, 80, "bank", log, lambda event: None)
    job = first.ask()
    assert job is not None
    first.tell(job, answer(job))
    second = score_stage("audit", np.arange(20), POOL, 80, "bank", log, lambda event: None)
    handed: list[int] = []
    while (job := second.ask()) is not None:
        handed.append(job.index)
        second.tell(job, answer(job))
    assert 0 not in handed
    assert second.done
    log.close()
    np.testing.assert_array_equal(
        np.sort(np.concatenate([entry.scores.samples_B for entry in ScoreArchive(tmp_path)])),
        [sample for sample in range(20) if sample not in FAILING],
    )


def test_a_given_back_job_comes_first():
    told: list[int] = []
    nothing = Hidden(np.empty(0, np.int64), np.empty((0, 1), np.float16), (), 0.0)
    task = EmbeddingTask(np.empty(0, np.int64), ())
    stage = FixedStage(
        "features", [lambda: task] * 3, lambda answers: told.extend(index for index, _ in answers), done=[1]
    )
    first, second = stage.ask(), stage.ask()
    assert first is not None
    assert second is not None
    assert stage.ask() is None
    assert not stage.done
    stage.give_back(first)
    again = stage.ask()
    assert again is not None
    assert again.index == 0
    stage.tell(second, nothing)
    stage.tell(again, nothing)
    assert stage.done
    assert told == [2, 0]
