"""Train a stretch on gloo ranks, in processes of their own; by hand it says how far they are from one process.

python tests/train_on_ranks.py [KEY=VALUE ..]       # ZeRO 0 to 3 against one process and against torch alone
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from clusterucb.checkpoint.ranks import LOOPBACK, Rank, join_gang, open_store
from clusterucb.training.stretch import Stretch
from clusterucb.training.trainer import ALONE, Place, train

RANKS = 2


class Ranks:
    """Processes that have met."""

    def __init__(self, count: int) -> None:
        self._stack = ExitStack()
        self._count = count

    def __enter__(self) -> Self:
        store, spawn = open_store(LOOPBACK), get_context("spawn")
        self._store = store
        self._processes = [self._stack.enter_context(ProcessPoolExecutor(1, spawn)) for _ in range(self._count)]
        ranks = [Rank(i, self._count, LOOPBACK, store.port) for i in range(self._count)]
        for future in [process.submit(_join, rank) for process, rank in zip(self._processes, ranks, strict=True)]:
            future.result(timeout=120)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def train(self, stretch: Stretch, folder: Path) -> Path:
        """Return the checkpoint that the ranks leave."""
        futures = [
            process.submit(_train, stretch, folder, rank, self._count) for rank, process in enumerate(self._processes)
        ]
        return max(future.result(timeout=200) for future in futures)


def _join(rank: Rank) -> None:
    torch.set_num_threads(1)
    join_gang(rank, torch.device("cpu"), timeout_s=120)


def _train(stretch: Stretch, folder: Path, rank: int, ranks: int) -> Path:
    return train(stretch, folder, Place(rank, ranks, torch.device("cpu")), lambda event: None)


def main() -> None:
    """Print the differences."""
    from training_cases import a_stretch, by_torch_alone, differences, outcome_of

    with tempfile.TemporaryDirectory() as place, Ranks(RANKS) as ranks:
        folder = Path(place)
        stretch = a_stretch(folder, *sys.argv[1:], steps=20)
        alone = outcome_of(train(stretch, folder / "alone", ALONE, lambda event: None), stretch)
        print("one process against torch alone", differences(alone, by_torch_alone(stretch)), flush=True)
        for stage in (0, 1, 2, 3):
            training = stretch.training.model_copy(update={"zero": stage})
            sharded = stretch.model_copy(update={"training": training})
            found = outcome_of(ranks.train(sharded, folder / f"zero{stage}"), stretch)
            print(f"ZeRO {stage} on {RANKS} ranks against one process", differences(found, alone), flush=True)


if __name__ == "__main__":
    main()
