"""What the chaos harness asks of a run beyond the usual, and the bytes that it must end in: no Ray here."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from selection_cases import config_of, go_on, result_of, write_rows

from clusterucb.gradients.targets import TargetBank
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.tasks import Answer, ScoreTask, Task, part_of, samples_of, with_failures
from clusterucb.run.worker import Worker
from clusterucb.types import Failure


def wished(folder: Path, target: dict[str, str]) -> dict[str, object]:
    """Return settings that ask for more than the paper: prediction, several targets, a certain recall, a selection
    within caps, corrected for length and diverse."""
    birds = write_rows(folder / "birds.jsonl", 6, ["birds", "code"], seed=3)
    return {
        "targets": [{"name": "sums"} | target, {"name": "birds", "path": str(birds), "weight": 2.0}],
        "search": {
            "budget": 0.6,
            "allocator": {"kind": "predictive"},
            "until": {"recall": 0.6, "looks": 6},
            "rounds": {"first": 16},
        },
        "selection": {
            "share": 0.1,
            "caps": {"source": {"share": 0.5}, "near_duplicate": {"count": 1}},
            "normalise": {"kind": "length_quantile", "buckets": 4},
            "diversity": {"kind": "facility_location"},
        },
    }


def results_of(folder: RunFolder) -> tuple[bytes, ...]:
    """Return the bytes that must not depend on what happened: of several targets every selection."""
    return (*result_of(folder), *(path.read_bytes() for path in sorted(folder.path.glob("selection-*.jsonl"))))


def first_draws(folder: RunFolder) -> list[str]:
    """Return the samples of the cold start, which every run with these settings draws, whatever their rewards."""
    scores = pq.read_table(folder.scores_file)
    return [name for name, draw in zip(*scores.select(["id", "round"]).to_pydict().values(), strict=True) if draw == 0]


class Spared(Worker):
    """A worker that is not handed what would end it, and says of it what the harness expects of a coordinator."""

    poison: frozenset[int] = frozenset()

    def work(self, task: Task, bank: Callable[[], TargetBank]) -> Answer:
        """Answer all of a task but the poison."""
        samples = samples_of(task).tolist()
        deadly = [sample for sample in samples if sample in self.poison] if isinstance(task, ScoreTask) else []
        if not deadly:
            return super().work(task, bank)
        others = np.array([row for row, sample in enumerate(samples) if sample not in deadly], np.int64)
        answer = super().work(part_of(task, others), bank) if len(others) else None
        return with_failures(answer, task, [Failure(sample, "worker_lost") for sample in deadly])


def undisturbed(settings: Path, poison: Sequence[str], path: Path) -> tuple[bytes, ...]:
    """Return the bytes of a run in this process, where nothing happens to it, without the poison."""
    torch.set_num_threads(1)  # as gradient workers do
    config, folder = config_of(yaml.safe_load(settings.read_text())), RunFolder(path)
    prepare(config, folder, lambda what, rows: None)
    worker = Spared(config, torch.device("cpu"))
    worker.poison = frozenset(int(name.rpartition("/")[2]) for name in poison)
    assert go_on(config, folder, worker, [], jobs=sys.maxsize)
    return results_of(folder)
