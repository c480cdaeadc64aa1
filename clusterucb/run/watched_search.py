"""A search that is stopped when enough of the top is certain: looks, audits and certificates of a run.

Invariant: which samples a look audits follows from configuration, seed and the draws before it; what an audit found is
never told to the search, except of samples that the search draws later, which are then not computed again.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb.audit import AuditEstimate
from clusterucb.config import Until
from clusterucb.run.until_result import LookResult, UntilResult
from clusterucb.search import Search
from clusterucb.types import IntArray
from clusterucb.until import Certificate, Look, audited_at, certify, least_audit, looks_of, order_of

Real = npt.NDArray[np.float64]


@dataclass(eq=False)
class WatchedSearch:
    """Plans the audits of a search over `usable` samples and judges them, look by look."""

    until: Until
    search: Search
    usable: IntArray
    k: int
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.looks: tuple[Look, ...] = looks_of(self.until, self.search.ledger.limit, self.search.start)
        self.results: list[LookResult] = []
        self._order = order_of(self.usable, self.rng)
        self._audited = np.empty(0, np.int64)
        self._certificates: tuple[Certificate, ...] = ()

    def doubts(self) -> str | None:
        """Say where the budget cannot suffice, however well the search does."""
        last = self.looks[-1]
        undrawn = len(self.usable) - last.draws
        least = least_audit(self.until, undrawn, self.k, last.error)
        if last.audited >= least:
            return None
        return (
            f"search.until: the budget audits {last.audited} samples, and a recall of {self.until.recall:g} cannot be "
            f"certified with fewer than {least}, so the run is going to end with its budget: raise search.budget or "
            f"search.until.audit, or lower search.until.recall"
        )

    def audit(self, look: Look) -> tuple[IntArray, int]:
        """Return the samples to audit now, ascending, and how many there are with those audited before."""
        before = self._audited
        self._now = audited_at(look, self._order, self.search.undrawn())
        self._audited = np.union1d(before, self._now)
        return np.setdiff1d(self._now, before), len(self._audited)

    def judge(self, look: Look, samples_B: IntArray, values_BM: Real) -> bool:
        """Certify what a look allows, from everything scored and what it is ranked by for each target; return whether
        the search may stop."""
        undrawn = self.search.undrawn()
        drawn_B = ~np.isin(samples_B, undrawn)
        audited_B = np.isin(samples_B, self._now)
        failed = np.full(len(self._now) - int(audited_B.sum()), np.nan)
        certificates: list[Certificate] = []
        for values_B in values_BM.T:
            audited = np.concatenate((values_B[audited_B], failed))
            certificates.append(certify(values_B[drawn_B], audited, len(undrawn), self.k, look.error))
        self._certificates = tuple(certificates)
        recall, low = (min(getattr(each, name) for each in certificates) for name in ("recall", "low"))
        self.results.append(LookResult(drawn=int(drawn_B.sum()), audited=len(self._now), recall=recall, low=low))
        return low >= self.until.recall

    def result(self) -> UntilResult:
        """Return how it ended."""
        return UntilResult(
            recall=self.until.recall,
            confidence=self.until.confidence,
            reached=self.results[-1].low >= self.until.recall,
            looks=tuple(self.results),
        )

    def estimate(self, target: int) -> AuditEstimate:
        """Return what the last look says of a target."""
        found = self._certificates[target]
        missed = (1.0 - found.recall) * self.k
        return AuditEstimate(found.recall, found.low, found.high, missed, len(self._now), self.until.confidence)
