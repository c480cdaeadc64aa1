"""The score log gives back what was appended after any restart, sketches included."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from clusterucb.run.score_log import ScoreArchive, ScoreLog
from clusterucb.run.score_table import ScoreTable
from clusterucb.types import Failure, Scores


def scores(*samples: int, failed: tuple[int, ...] = (), dim: int = 4) -> Scores:
    n = len(samples)
    sketch = np.asarray([[sample] * dim for sample in samples], np.float16).reshape(n, dim)
    return Scores(
        samples_B=np.asarray(samples, np.int64),
        influence_BS=np.asarray([[sample / 10, -sample / 10] for sample in samples], np.float32).reshape(n, 2),
        squared_norm_B=np.ones(n, np.float32),
        loss_B=np.full(n, 2.0, np.float32),
        sketch_BD=sketch,
        failures=tuple(Failure(sample, "non_finite", "loss nan") for sample in failed),
        seconds=0.25,
    )


def test_a_micro_batch_is_found_again_after_a_restart_in_any_order(tmp_path: Path):
    log = ScoreLog(tmp_path)
    log.append("search", [(0, scores(5, 2, failed=(9,)))])
    log.append("audit", [(-1, scores(1))])
    log.close()
    again = ScoreLog(tmp_path)
    found = again.find("search", np.asarray([2, 9, 5]))
    assert found is not None
    assert found.samples_B.tolist() == [5, 2]
    assert found.failures == (Failure(9, "non_finite", "loss nan"),)
    assert again.find("search", np.asarray([2, 5])) is None
    assert again.find("audit", np.asarray([2, 9, 5])) is None
    again.append("search", [(1, scores(7))])
    again.close()
    assert [(entry.stage, entry.round) for entry in ScoreArchive(tmp_path)] == [
        ("search", 0),
        ("audit", -1),
        ("search", 1),
    ]


def test_sketches_belong_to_their_samples_even_after_a_torn_write(tmp_path: Path):
    log = ScoreLog(tmp_path)
    log.append("search", [(0, scores(5, 2))])
    log.close()
    with (tmp_path / "sketches.f16").open("ab") as file:
        file.write(b"\x01\x02\x03")  # a crash in the middle of a row
    log = ScoreLog(tmp_path)
    log.append("search", [(1, scores(8))])
    log.append("search", [(1, replace(scores(failed=(3,)), sketch_BD=None))])
    log.close()
    rows = {
        int(s): row.tolist()
        for samples, block in ScoreArchive(tmp_path).sketches()
        for s, row in zip(samples, block, strict=True)
    }
    assert rows == {5: [5.0] * 4, 2: [2.0] * 4, 8: [8.0] * 4}


def test_the_table_is_the_same_whatever_order_scores_came_in(tmp_path: Path):
    first, second = ScoreLog(tmp_path / "a"), ScoreLog(tmp_path / "b")
    one, two = scores(5, 2, failed=(9,)), scores(3)
    for log, order in ((first, (one, two)), (second, (two, one))):
        for part in order:
            log.append("search", [(0, part)])
        log.close()
    tables = [ScoreTable.of(ScoreArchive(tmp_path / name), 2) for name in "ab"]
    for table in tables:
        assert table.samples_B.tolist() == [2, 3, 5]
        np.testing.assert_allclose(table.reward_B, [0.2, 0.3, 0.5], rtol=1e-6)
        assert [failure.sample for failure in table.failures] == [9]
    assert ScoreTable.of(ScoreArchive(tmp_path / "a"), 2, ("audit",)).influence_BS.shape == (0, 2)


def test_answers_told_together_are_found_like_answers_told_alone(tmp_path: Path):
    parts = [(0, scores(5, 2, failed=(9,))), (1, scores(3)), (1, replace(scores(failed=(4,)), sketch_BD=None))]
    alone, together = ScoreLog(tmp_path / "alone"), ScoreLog(tmp_path / "together")
    for part in parts:
        alone.append("search", [part])
    together.append("search", parts)
    together.append("search", [])
    for log in (alone, together):
        log.close()
    one, other = ScoreArchive(tmp_path / "alone"), ScoreArchive(tmp_path / "together")
    assert [entry.first_sketch for entry in one] == [entry.first_sketch for entry in other]
    for (samples, rows), (same, equal) in zip(one.sketches(), other.sketches(), strict=True):
        np.testing.assert_array_equal(samples, same)
        np.testing.assert_array_equal(rows, equal)
