"""Sketch first, exact last: which samples are worth a gradient once sketches have ranked them."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clusterucb.config import Selection
from clusterucb.data.tokens import TokenStore
from clusterucb.run.choosing import PoolGroups
from clusterucb.run.score_table import ScoreTable
from clusterucb.selection.subset import first_within_caps
from clusterucb.types import IntArray


def shortlist(
    table: ScoreTable,
    values_B: npt.NDArray[np.float64],
    pool: TokenStore,
    wanted: int,
    factor: float,
    selection: Selection,
    groups: Sequence[PoolGroups],
) -> IntArray:
    """Return the samples, ascending, that rank among the first `factor` times `wanted` and were not scored exactly.

    Ranks go by `values_B`, which come of the best score there is of each, equal ones by id. A group under a cap fills
    no more than `factor` times what the cap leaves it, unless the others run out.
    """
    count = min(len(table.samples_B), math.ceil(factor * wanted - 1e-9))
    ids = pool.ids.take(table.samples_B)
    ranked = np.asarray(sorted(range(len(ids)), key=lambda i: (-values_B[i], ids[i])), np.int64)
    grouped = [each.of(table.samples_B) for each in groups]
    best = first_within_caps(ranked, count, selection, grouped, factor, wanted)
    return np.sort(table.samples_B[best[table.reused_B[best]]])
