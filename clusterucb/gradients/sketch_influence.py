"""Influence from a sketch as it is kept, in half precision.

Invariant: a row's influence depends on that row and the target alone, bit for bit: not on the rows beside it, the
number of threads, or whether a worker or the coordinator computes it. Hence no matrix product: libraries choose the
order of its sums by its shape.
"""

import numpy as np

from clusterucb.types import FloatArray, HalfArray

_ROWS_AT_ONCE = 64


def sketch_influence(sketch_BD: HalfArray, target_SD: FloatArray) -> FloatArray:
    """Return [B, S]: products of unit sketches with the target's mean sketches, summed in float64."""
    influence_BS = np.empty((len(sketch_BD), len(target_SD)), np.float32)
    for start in range(0, len(sketch_BD), _ROWS_AT_ONCE):
        block_BD = sketch_BD[start : start + _ROWS_AT_ONCE].astype(np.float64)
        for s, target_D in enumerate(target_SD.astype(np.float64)):
            influence_BS[start : start + _ROWS_AT_ONCE, s] = (block_BD * target_D).sum(axis=1)
    return influence_BS
