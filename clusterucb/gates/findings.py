"""What the gates found: which rows, by which gate, what each resembles, and whether it leaves the pool.

Everything is columns until it is written, so that millions of copies cost a few bytes each.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from clusterucb.config import Policy
from clusterucb.types import IntArray

Gate = Literal["held_out", "target", "exact", "near"]
GATES: tuple[Gate, ...] = ("held_out", "target", "exact", "near")
"""In the order in which they decide: what one takes out, the next does not see."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One row and what it resembles."""

    row: int
    gate: Gate
    policy: Policy
    partner: str
    among: str
    """`pool`, `target`, or the path of the held-out set that `partner` is the id in."""
    similarity: float | None = None
    """Jaccard similarity of the sets of word sequences; None for held-out rows."""
    shared: int | None = None
    """Sequences shared with the held-out set."""
    words: str | None = None
    """One of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Resembling:
    """The rows that one gate found among the pool or the target, ascending, each with its partner's position."""

    gate: Gate
    policy: Policy
    rows: IntArray
    partners: IntArray
    similarities: npt.NDArray[np.float64]

    def findings(self, name: Callable[[int], str]) -> Iterator[Finding]:
        """Yield the rows with their partners' ids."""
        among = "target" if self.gate == "target" else "pool"
        for i, row in enumerate(self.rows.tolist()):
            partner, similarity = name(int(self.partners[i])), round(float(self.similarities[i]), 4)
            yield Finding(row, self.gate, self.policy, partner, among, similarity)


@dataclass(frozen=True, slots=True, eq=False)
class Verdicts:
    """Everything found in a pool of N rows."""

    held_out: tuple[tuple[Finding, ...], ...]
    """By set; rows ascend."""
    resembling: tuple[Resembling, ...]
    left_by_N: npt.NDArray[np.int8]
    """Position in GATES of the gate that a row leaves by; -1 where it stays."""
    group_N: IntArray
    """The first row of a row's group of copies and near-copies; -1 for a row that has none."""
    notes: tuple[str, ...]

    def findings(self, pool_ids: Sequence[str], target_ids: Sequence[str]) -> Iterator[Finding]:
        """Yield everything found, by row, then gate."""
        names = {"target": target_ids.__getitem__}
        parts = [
            *map(iter, self.held_out),
            *(each.findings(names.get(each.gate, pool_ids.__getitem__)) for each in self.resembling),
        ]
        return heapq.merge(*parts, key=lambda finding: (finding.row, GATES.index(finding.gate)))

    def found(self) -> dict[Gate, int]:
        """Count the rows that each gate found."""
        counts: dict[Gate, int] = {each.gate: len(each.rows) for each in self.resembling}
        if self.held_out:
            counts["held_out"] = len({finding.row for one in self.held_out for finding in one})
        return counts
