"""The numbers that the prediction sees of every sample: one narrow half-precision matrix, in groups of columns.

Each feature matrix (as principal components), each set of columns and each factor is a group; a group's columns vary
by 1 on average, so that one prior precision a group says how much it matters. Clusters are no columns: the model
knows them by label.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clusterucb.search.predictive.known import Knowledge, Matrix, indicators, standardised
from clusterucb.search.predictive.principal import blocks_of, principal_components
from clusterucb.types import FloatArray, HalfArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class WorkingSet:
    """C columns of N samples, and the group of each column."""

    columns_NC: HalfArray
    groups_C: IntArray

    @classmethod
    def of(cls, known: Knowledge, labels_N: npt.NDArray[np.int32], components: int, rng: np.random.Generator):
        """Reduce what is known of the usable samples (label 0 or more); the rows of the others stay zero."""
        usable = np.flatnonzero(labels_N >= 0)
        parts = [_reduced(matrix_NF, usable, components, rng) for matrix_NF in known.matrices]
        parts += [_half(standardised(columns, usable), usable) for columns in known.columns]
        parts += [_half(indicators(factor, usable), usable) for factor in known.factors]
        parts = [part_NC for part_NC in parts if part_NC.shape[1]]
        groups = [np.full(part_NC.shape[1], group) for group, part_NC in enumerate(parts)]
        if not parts:
            return cls(np.empty((len(labels_N), 0), dtype=np.float16), np.empty(0, dtype=np.int64))
        joined_NC = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return cls(joined_NC, np.concatenate(groups).astype(np.int64))

    def rows(self, part: slice | IntArray) -> FloatArray:
        """Return the chosen rows in float32."""
        return torch.from_numpy(self.columns_NC[part]).float().numpy()


def _reduced(matrix_NF: Matrix, usable: IntArray, count: int, rng: np.random.Generator) -> HalfArray:
    found = principal_components(matrix_NF, usable, count, rng)
    scale = _scale(float(found.variance_C.sum()), len(found.variance_C))
    reduced_NC = np.zeros((len(matrix_NF), len(found.variance_C)), dtype=np.float16)
    for block in blocks_of(usable, matrix_NF.shape[1]):
        reduced_NC[block] = found.project(matrix_NF[block]) * scale
    return reduced_NC


def _half(values_NC: FloatArray, usable: IntArray) -> HalfArray:
    variance_C = values_NC[usable].var(axis=0, dtype=np.float64)
    scaled_NC = np.zeros(values_NC.shape, dtype=np.float16)
    scaled_NC[usable] = np.clip(values_NC[usable] * _scale(float(variance_C.sum()), len(variance_C)), -6e4, 6e4)
    return scaled_NC


def _scale(variance: float, columns: int) -> float:
    return (columns / variance) ** 0.5 if variance > 0 else 1.0
