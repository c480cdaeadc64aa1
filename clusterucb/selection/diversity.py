"""From a shortlist to a diverse selection: which samples differ enough, by their gradients' sketches.

No kept library does this: apricot was last released in 2021 and needs the n x n kernel or a k-nearest graph of it;
submodlib builds the kernel too, and neither asks caps. Invariant: the same rows and values give the same order; a
`quality` of 1 gives the best ones, in their order.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb.config import FacilityLocation, LogDeterminant
from clusterucb.selection.facility_location import FacilityCoverage
from clusterucb.selection.lazy_greedy import Gate, Objective, lazy_greedy
from clusterucb.selection.log_determinant import SpannedVolume
from clusterucb.types import FloatArray, IntArray

Real = npt.NDArray[np.float64]
Diverse = FacilityLocation | LogDeterminant
Sketches = Callable[[IntArray, int], FloatArray]
"""Gives the sketches of samples, in their order, folded to so many dimensions."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """The gate of a list, told by position in the list."""

    gate: Gate
    listed: IntArray

    def admits(self, position: int) -> bool:
        return self.gate.admits(int(self.listed[position]))

    def take(self, position: int) -> None:
        self.gate.take(int(self.listed[position]))


def shortlisted(diverse: Diverse, count: int, scored: int) -> int:
    """Return the length of the shortlist that `count` samples are chosen from."""
    return min(scored, math.ceil(diverse.shortlist * count - 1e-9))


def diverse_order(
    diverse: Diverse, listed: IntArray, values_B: Real, rows_BD: FloatArray, count: int, gate: Gate
) -> IntArray:
    """Choose up to `count` of `listed`, positions best first, with their values and sketches; in order of choice."""
    objective = objective_of(diverse, prepared(rows_BD, diverse.center), scaled(values_B), count)
    return listed[lazy_greedy(objective, len(listed), count, _Placed(gate, listed))]


def objective_of(diverse: Diverse, rows_BD: FloatArray, relevance_B: Real, count: int) -> Objective:
    """Return what is maximised over unit rows, best first."""
    match diverse:
        case FacilityLocation():
            stand_in = min(diverse.represented, len(rows_BD))
            represented = np.linspace(0, len(rows_BD) - 1, stand_in).astype(np.int64)
            return FacilityCoverage(rows_BD, represented, relevance_B, diverse.quality, count)
        case LogDeterminant():
            return SpannedVolume(rows_BD, relevance_B, diverse.quality, diverse.ridge)


def scaled(values_B: Real) -> Real:
    """Bring values to 0 for the worst and 1 for the best; 1 for all where they are equal."""
    low, high = float(values_B.min()), float(values_B.max())
    return (values_B - low) / (high - low) if high > low else np.ones(len(values_B))


def prepared(rows_BD: FloatArray, center: bool) -> FloatArray:
    """Return unit rows, with the mean direction taken off where asked; a row with nothing left stays zero."""
    rows_BD = _unit(rows_BD)
    if center:
        rows_BD = _unit(rows_BD - rows_BD.mean(axis=0, dtype=np.float64).astype(np.float32))
    return rows_BD


def folded(sketch_BD: npt.NDArray[np.floating], dim: int) -> FloatArray:
    """Fold sketches to `dim` dimensions by adding every dim-th bucket: signs are random, so products survive."""
    width = sketch_BD.shape[1]
    if width <= dim:
        return sketch_BD.astype(np.float32)
    padded_BD = np.zeros((len(sketch_BD), -(-width // dim) * dim), np.float32)
    padded_BD[:, :width] = sketch_BD
    return padded_BD.reshape(len(sketch_BD), -1, dim).sum(axis=1)


def _unit(rows_BD: FloatArray) -> FloatArray:
    norms_B = np.linalg.norm(rows_BD, axis=1, keepdims=True)
    return rows_BD / np.where(norms_B > 1e-6, norms_B, np.inf).astype(np.float32)
