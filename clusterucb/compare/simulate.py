"""Run a search against recorded rewards, in this process: what an allocator finds, in seconds instead of GPU hours."""

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
    recall: float
    """Share of the pool's true top-k that was drawn."""
    influence: float
    """Sum of the k best drawn rewards over the sum of the pool's k best."""


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
) -> SimulatedRun:
    """Search recorded rewards for the top `selection_share` of the drawable samples."""
    engine = Search(labels_N, search, selection_share, rng, known)
    drawn = drive(engine, rewards_N)
    ranked = np.flatnonzero((labels_N >= 0) & np.isfinite(rewards_N))
    ranked = ranked[np.argsort(-rewards_N[ranked], kind="stable")]
    top = ranked[: config.Selection(share=selection_share).size(int((labels_N >= 0).sum()))]
    best = np.sort(rewards_N[drawn])[::-1][: len(top)]
    return SimulatedRun(
        drawn=drawn,
        ledger=engine.ledger,
        rounds=engine.rounds_told,
        recall=float(np.isin(top, drawn).mean()),
        influence=float(best.sum() / rewards_N[top].sum()),
    )
