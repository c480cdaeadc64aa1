"""What is known of every pool sample before any of it is scored in this run.

Invariant: row n is sample n of the pool; nothing here holds a reward of this run.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterucb.types import IntArray

Matrix = npt.NDArray[Any]
"""N x F numbers of any float type, an array or a memory map; only their directions count."""

MOST_LEVELS = 64
"""Levels of a factor that get an indicator of their own: the most frequent ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Few numbers a sample that are used as they are, such as the influence in an earlier period. NaN: not known."""

    name: str
    values_NC: npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A category a sample, such as its source; -1 where there is none."""

    name: str
    codes_N: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Knowledge:
    """Feature matrices (reduced to principal components), columns and factors, side by side."""

    matrices: tuple[Matrix, ...] = ()
    columns: tuple[Columns, ...] = ()
    factors: tuple[Factor, ...] = ()

    def with_matrix(self, matrix_NF: Matrix) -> "Knowledge":
        """Return the same with one more matrix, before the others."""
        return Knowledge((matrix_NF, *self.matrices), self.columns, self.factors)


def standardised(columns: Columns, usable: IntArray) -> npt.NDArray[np.float32]:
    """Return the columns with mean 0 and deviation 1 over the usable samples; unknown entries are 0, and marked.

    A column with unknown entries is followed by one that says which they are. Constant columns are left out.
    """
    values_NC = np.asarray(columns.values_NC, dtype=np.float64)
    made = [_scaled(column_N, usable) for column_N in values_NC.T]
    marks = [_scaled(np.isnan(column_N).astype(np.float64), usable) for column_N in values_NC.T]
    kept = [column_N for column_N in (*made, *marks) if column_N.any()]
    return np.stack(kept, axis=1).astype(np.float32) if kept else np.empty((len(values_NC), 0), dtype=np.float32)


def indicators(factor: Factor, usable: IntArray) -> npt.NDArray[np.float32]:
    """Return centred indicators of the most frequent levels."""
    counts = np.bincount(factor.codes_N[usable][factor.codes_N[usable] >= 0])
    levels = np.argsort(-counts, kind="stable")[:MOST_LEVELS]
    levels = np.sort(levels[counts[levels] > 0])
    made_NL = (factor.codes_N[:, None] == levels).astype(np.float32)
    return made_NL - made_NL[usable].mean(axis=0)


def _scaled(column_N: npt.NDArray[np.float64], usable: IntArray) -> npt.NDArray[np.float64]:
    known = column_N[usable][np.isfinite(column_N[usable])]
    spread = float(known.std()) if len(known) else 0.0
    if spread <= 1e-12 * max(1.0, float(np.abs(known).max(initial=0.0))):
        return np.zeros_like(column_N)
    return np.nan_to_num((column_N - known.mean()) / spread, nan=0.0, posinf=0.0, neginf=0.0)
