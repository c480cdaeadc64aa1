"""A task that is dealt and joined comes back whole and in order, whatever becomes of its samples."""

from dataclasses import replace

import numpy as np
from gradient_cases import batch_of
from hypothesis import given
from hypothesis import strategies as st

from clusterucb.run.dealing import deal, join
from clusterucb.run.tasks import EmbeddingTask, FeatureTask, ScoreTask, Task
from clusterucb.types import Failure, Hidden, IntArray, Scores, TokenBatch

SAMPLES = st.permutations(range(40)).flatmap(lambda order: st.integers(1, 12).map(lambda count: order[:count]))


def answer(task: Task, seconds: float) -> Scores | Hidden:
    """Answer with numbers that name their sample; every third sample fails."""
    samples_B = task.samples_B if isinstance(task, EmbeddingTask) else task.batch.samples_B
    good_B: IntArray = samples_B[samples_B % 3 != 0]
    failures = tuple(Failure(int(sample), "non_finite") for sample in samples_B if sample % 3 == 0)
    named_B = good_B.astype(np.float32)
    if isinstance(task, ScoreTask):
        sketch_BD = named_B[:, None].astype(np.float16)
        return Scores(good_B, named_B[:, None], 2 * named_B, 3 * named_B, sketch_BD, failures, seconds)
    return Hidden(good_B, named_B[:, None].astype(np.float16), failures, seconds)


def named_batch(samples: list[int]) -> TokenBatch:
    return replace(batch_of([2 + sample % 5 for sample in samples]), samples_B=np.array(samples))


@given(samples=SAMPLES, ranks=st.integers(1, 5))
def test_dealt_and_joined_is_answered_whole(samples: list[int], ranks: int) -> None:
    texts = tuple(map(str, samples))
    for task in (
        ScoreTask(named_batch(samples), "bank"),
        FeatureTask(named_batch(samples)),
        EmbeddingTask(np.array(samples), texts),
    ):
        parts = deal(task, ranks)
        assert len(parts) == ranks
        joined = join(task, [answer(part, float(rank)) for rank, part in enumerate(parts)])
        whole = answer(task, ranks - 1.0)
        assert joined.failures == whole.failures
        assert joined.seconds == whole.seconds
        for field in ("samples_B", "influence_BS", "squared_norm_B", "loss_B", "sketch_BD", "features_BF"):
            if hasattr(whole, field):
                np.testing.assert_array_equal(getattr(joined, field), getattr(whole, field))


@given(samples=SAMPLES, ranks=st.integers(2, 5))
def test_each_sample_is_dealt_once_with_its_tokens(samples: list[int], ranks: int) -> None:
    batch = named_batch(samples)
    parts = deal(FeatureTask(batch), ranks)
    sizes = [len(part.batch) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    rows = {int(s): part.batch.row(i)[0].tolist() for part in parts for i, s in enumerate(part.batch.samples_B)}
    assert rows == {sample: batch.row(i)[0].tolist() for i, sample in enumerate(samples)}
