"""Facility location: every represented sample shall have a similar one in the selection.

    F(Y) = quality * sum_{j in Y} r_j / k  +  (1 - quality) * mean over represented i of max(0, max_{j in Y} cos(i, j))

r in [0, 1] is the rank value, k the size asked for, so that both terms are between 0 and 1. Memory: the rows, and one
block of cosines, elements by represented samples.
"""

import numpy as np
import numpy.typing as npt

from clusterucb.types import FloatArray, IntArray

Real = npt.NDArray[np.float64]


class FacilityCoverage:
    """The objective; `rows_BD` are unit or zero, `represented` says which of them are to be covered."""

    def __init__(
        self, rows_BD: FloatArray, represented: IntArray, relevance_B: Real, quality: float, count: int
    ) -> None:
        self._rows_BD = rows_BD
        self._represented_RD = rows_BD[represented]
        self._worth_B = quality * relevance_B / count
        self._share = (1.0 - quality) / len(represented)
        self._cover_R = np.zeros(len(represented), np.float32)

    def gains(self, elements: IntArray) -> Real:
        """Return what each would add."""
        cosines_ER = self._rows_BD[elements] @ self._represented_RD.T
        np.subtract(cosines_ER, self._cover_R, out=cosines_ER)
        np.maximum(cosines_ER, 0.0, out=cosines_ER)
        return self._worth_B[elements] + self._share * cosines_ER.sum(axis=1, dtype=np.float64)

    def add(self, element: int) -> None:
        """Cover what is more like this one than like any before."""
        np.maximum(self._cover_R, self._represented_RD @ self._rows_BD[element], out=self._cover_R)
