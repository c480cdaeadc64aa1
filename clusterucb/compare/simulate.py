"""Run a search against recorded rewards, in this process: what an allocator finds, in seconds instead of GPU hours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb import config
from clusterucb.search import Ledger, Search
from clusterucb.search.predictive import Knowledge
from clusterucb.types import IntArray, Observations
from clusterucb.until import Certificate, Look, audited_at, certify, looks_of, order_of


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
    drawn: list[IntArray] = [np.empty(0, np.int64)]
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


@dataclass(frozen=True, slots=True, eq=False)
class WatchedRun:
    """A simulated search with `until`: what each look certified, and the share of the true top that was scored then."""

    looks: tuple[Look, ...]
    certificates: tuple[Certificate, ...]
    recalls: tuple[float, ...]
    scored: int
    """Samples scored at the end, audits included."""
    reached: bool


def simulate_until(
    rewards_N: npt.NDArray[np.float64],
    labels_N: npt.NDArray[np.int32],
    search: config.Search,
    selection_share: float,
    rng: np.random.Generator,
    audit_rng: np.random.Generator,
    known: Knowledge | None = None,
    stop: bool = True,
) -> WatchedRun:
    """Search recorded rewards until the asked recall is certified; without `stop`, to the end of the budget."""
    assert search.until is not None, "nothing is asked for"
    engine = Search(labels_N, search, selection_share, rng, known)
    usable = np.flatnonzero(labels_N >= 0)
    k = config.Selection(share=selection_share).size(len(usable))
    top = usable[np.argsort(-np.nan_to_num(rewards_N[usable], nan=-np.inf), kind="stable")][:k]
    looks = looks_of(search.until, engine.ledger.limit, engine.start)
    order = order_of(usable, audit_rng)
    drawn = np.empty(0, np.int64)
    certificates: list[Certificate] = []
    recalls: list[float] = []
    scored = 0
    for look in looks:
        engine.allow(look.draws)
        drawn = np.concatenate((drawn, drive(engine, rewards_N)))
        undrawn = engine.undrawn()
        audited = audited_at(look, order, undrawn)
        certificates.append(certify(rewards_N[drawn], rewards_N[audited], len(undrawn), k, look.error))
        recalls.append(float(np.isin(top, np.concatenate((drawn, audited))).mean()))
        scored = len(drawn) + len(audited)
        if stop and certificates[-1].low >= search.until.recall:
            break
    reached = certificates[-1].low >= search.until.recall
    return WatchedRun(looks, tuple(certificates), tuple(recalls), scored, reached)


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
