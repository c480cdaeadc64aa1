"""Principal components of features that may be larger than memory: few numbers a sample instead of thousands.

Rows count by their direction, and what all rows share is taken off first, as in clustering. The components come from
a sample of the rows (all of them, where they fit in `SAMPLE_BYTES`) by block subspace iteration; every row is then
projected, block by block. Invariant: rows, generator state and threads settle the result, to the byte.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clusterucb.search.predictive.known import Matrix
from clusterucb.types import FloatArray, IntArray

SAMPLE_BYTES = 2**28
"""Float32 bytes of the rows that the components are computed from."""
BLOCK_BYTES = 2**23
"""Float32 bytes of a block of rows."""
SPARE = 16
"""Directions carried along besides the wanted ones: the iteration converges on the wanted ones faster."""
ITERATIONS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Components:
    """An orthonormal basis of the leading directions, largest variance first, and the mean direction."""

    mean_F: FloatArray
    basis_FC: FloatArray
    variance_C: FloatArray
    """Variance of the sampled rows along each component."""

    def project(self, rows_BF: Matrix) -> FloatArray:
        """Return B x C coordinates of rows of any length; a row of zeros, of which nothing is known, is average."""
        along_BC = unit(rows_BF) @ self.basis_FC
        known_B = along_BC.any(axis=1)
        along_BC -= self.mean_F @ self.basis_FC
        along_BC[~known_B] = 0.0
        return along_BC


def unit(rows_BF: Matrix) -> FloatArray:
    """Return the rows as float32 vectors of length 1; a row of zeros stays one."""
    x_BF = torch.from_numpy(np.array(rows_BF)).float()
    x_BF.div_(torch.linalg.vector_norm(x_BF, dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny))
    return x_BF.numpy()


def principal_components(matrix_NF: Matrix, rows: IntArray, count: int, rng: np.random.Generator) -> Components:
    """Return at most `count` components of the chosen rows; directions without variance are left out."""
    most = max(4 * (count + SPARE), SAMPLE_BYTES // (4 * matrix_NF.shape[1]))
    seen = rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
    x_nF = np.concatenate([unit(matrix_NF[block]) for block in blocks_of(seen, matrix_NF.shape[1])])
    mean_F = x_nF.mean(axis=0, dtype=np.float64).astype(np.float32)
    x_nF -= mean_F
    width = min(count + SPARE, *x_nF.shape)
    basis_FC = rng.standard_normal((x_nF.shape[1], width)).astype(np.float32)
    for _ in range(ITERATIONS):
        basis_FC = _orthonormal(x_nF.T @ (x_nF @ _orthonormal(basis_FC)))
    seen_nC = x_nF @ basis_FC
    values, turn_CC = np.linalg.eigh((seen_nC.T @ seen_nC).astype(np.float64))
    largest = np.argsort(-values, kind="stable")[:count]
    largest = largest[values[largest] > 1e-9 * max(float(values.max()), 1e-30)]
    return Components(
        mean_F=mean_F,
        basis_FC=(basis_FC @ turn_CC[:, largest]).astype(np.float32),
        variance_C=(values[largest] / len(x_nF)).astype(np.float32),
    )


def blocks_of(rows: IntArray, width: int) -> Iterator[IntArray]:
    """Yield the rows in order, as many at a time as `BLOCK_BYTES` hold of `width` numbers."""
    size = max(256, BLOCK_BYTES // (4 * width))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _orthonormal(x_FC: FloatArray) -> FloatArray:
    basis: npt.NDArray[np.float32] = np.linalg.qr(x_FC)[0]
    return basis
