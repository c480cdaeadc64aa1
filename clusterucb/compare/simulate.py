"""Run a search against recorded rewards, in this process: what an allocator finds, in seconds instead of GPU hours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb import config
from clusterucb.search import Ledger, Search
from clusterucb.search.predictive import Knowledge
from clusterucb.types import IntArray, Observations


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedRun:
    """What a search drew, judged by the rewards of the whole pool."""

    drawn: IntArray
    """Observed samples, in planned order."""
    ledger: Ledger
    rounds: int
    recalls: tuple[float, ...]
    """Of each target, the share of the pool's true top-k that was drawn."""
    influences: tuple[float, ...]
    """Of each target, the sum of the k best drawn rewards over the sum of the pool's k best."""

    @property
    def recall(self) -> float:
        """Mean over the targets."""
        return float(np.mean(self.recalls))

    @property
    def influence(self) -> float:
        """Mean over the targets."""
        return float(np.mean(self.influences))


def drive(search: Search, rewards_N: npt.NDArray[np.float64]) -> IntArray:
    """Drive a search to its end, answering from a table (N, or N x M), and return what was observed. NaN: it fails."""
    drawn: list[IntArray] = []
    while not search.done:
        planned = search.ask()
        assert planned is not None, "every planned round is told, so there is a next one"
        rounds = [planned]
        while (ahead := search.ask()) is not None:  # with lag 1, one more round is out before the first is told
            rounds.append(ahead)
        for planned in rounds:
            rewards_B = rewards_N[planned.samples_B]
            search.tell(planned.index, Observations(planned.samples_B, rewards_B))
            finite_B = np.isfinite(rewards_B.reshape(len(rewards_B), -1)).all(axis=1)
            drawn.append(planned.samples_B[finite_B])
    return np.concatenate(drawn)


def simulate(
    rewards_N: npt.NDArray[np.float64],
    labels_N: npt.NDArray[np.int32],
    search: config.Search,
    selection_share: float,
    rng: np.random.Generator,
    known: Knowledge | None = None,
    weights: Sequence[float] = (1.0,),
    earlier_NM: npt.NDArray[np.float64] | None = None,
) -> SimulatedRun:
    """Search recorded rewards (N, or N x M for M weights) for the top `selection_share` of the drawable samples."""
    engine = Search(labels_N, search, selection_share, rng, known, weights, earlier_NM)
    drawn = drive(engine, rewards_N)
    count = config.Selection(share=selection_share).size(int((labels_N >= 0).sum()))
    found = [_found(column_N, labels_N, drawn, count) for column_N in rewards_N.reshape(len(rewards_N), -1).T]
    return SimulatedRun(
        drawn=drawn,
        ledger=engine.ledger,
        rounds=engine.rounds_told,
        recalls=tuple(recall for recall, _ in found),
        influences=tuple(influence for _, influence in found),
    )


def _found(
    rewards_N: npt.NDArray[np.float64], labels_N: npt.NDArray[np.int32], drawn: IntArray, count: int
) -> tuple[float, float]:
    ranked = np.flatnonzero((labels_N >= 0) & np.isfinite(rewards_N))
    top = ranked[np.argsort(-rewards_N[ranked], kind="stable")][:count]
    best = np.sort(rewards_N[drawn])[::-1][: len(top)]
    return float(np.isin(top, drawn).mean()), float(best.sum() / rewards_N[top].sum())
