"""Deadlines follow what was measured, and never undercut the minimum."""

import numpy as np
import pytest

from actors.pace import Pace
from clusterucb.run.tasks import EmbeddingTask, FeatureTask
from clusterucb.types import TokenBatch


def task_of(tokens: int) -> FeatureTask:
    offsets = np.array([0, tokens])
    return FeatureTask(TokenBatch(np.array([0]), np.zeros(tokens, np.int32), np.zeros(tokens, bool), offsets))


def test_nothing_measured_means_the_long_limit():
    assert Pace(10, 5, 900).limit_s(task_of(100)) == 900


def test_the_limit_grows_with_the_tokens_and_has_a_floor():
    pace = Pace(10, 5, 900)
    pace.saw(task_of(100), 2.0)
    pace.saw(task_of(300), 6.0)
    assert pace.limit_s(task_of(1000)) == pytest.approx(10 * 1000 * 0.02)
    assert pace.limit_s(task_of(10)) == 5


def test_kinds_of_task_are_measured_apart():
    pace = Pace(10, 5, 900)
    pace.saw(task_of(100), 2.0)
    assert pace.limit_s(EmbeddingTask(np.array([0]), ("text",))) == 900
