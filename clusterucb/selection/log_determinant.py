"""Log-determinant, the greedy mode of a determinantal point process: the selection spans all it can.

    F(Y) = sum over j in Y of quality * r_j  +  (1 - quality) * log det(I + V_Y V_Y' / ridge) / log(1 + 1 / ridge)

The gain of i is the logarithm of its Schur complement, which by Woodbury needs no kernel between samples:

    d_i^2 = ridge + v_i' M v_i,    M = (I + V_Y' V_Y / ridge)^-1,    M <- M - (M v)(M v)' / d^2 when v is added.

It is scaled to 1 for what is orthogonal to everything taken, and 0 for what adds nothing. Memory: the rows and M,
whatever the size of the selection; Chen et al. (2018) keep a row a step and element instead.
"""

import numpy as np
import numpy.typing as npt

from clusterucb.types import FloatArray, IntArray

Real = npt.NDArray[np.float64]


class SpannedVolume:
    """The objective; `rows_BD` are unit or zero."""

    def __init__(self, rows_BD: FloatArray, relevance_B: Real, quality: float, ridge: float) -> None:
        self._rows_BD = rows_BD
        self._worth_B = quality * relevance_B
        self._ridge = ridge
        self._share = (1.0 - quality) / np.log((1.0 + ridge) / ridge)
        self._inverse_DD = np.eye(rows_BD.shape[1])

    def gains(self, elements: IntArray) -> Real:
        """Return what each would add."""
        rows_ED = self._rows_BD[elements].astype(np.float64)
        left_E = np.einsum("ed,ed->e", rows_ED @ self._inverse_DD, rows_ED)
        return self._worth_B[elements] + self._share * np.log1p(np.maximum(left_E, 0.0) / self._ridge)

    def add(self, element: int) -> None:
        """Take the direction out of what is left."""
        row_D = self._rows_BD[element].astype(np.float64)
        image_D = self._inverse_DD @ row_D
        scale = 1.0 / np.sqrt(self._ridge + row_D @ image_D)
        image_D *= scale
        self._inverse_DD -= np.multiply.outer(image_D, image_D)
