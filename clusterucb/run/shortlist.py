"""Sketch first, exact last: which samples are worth a gradient once sketches have ranked them."""

import math
from collections import Counter

import numpy as np
import numpy.typing as npt

from clusterucb.data.tokens import TokenStore
from clusterucb.run.score_table import ScoreTable
from clusterucb.types import IntArray


def shortlist(
    table: ScoreTable,
    reward_B: npt.NDArray[np.float64],
    pool: TokenStore,
    wanted: int,
    factor: float,
    max_per_source: float | None,
) -> IntArray:
    """Return the samples, ascending, that rank among the first `factor` times `wanted` and were not scored exactly.

    Ranks go by `reward_B`, which comes of the best score there is of each, equal ones by id. With `max_per_source` no
    source fills more than its share of the list, unless the others run out.
    """
    count = min(len(table.samples_B), math.ceil(factor * wanted - 1e-9))
    ids = pool.ids.take(table.samples_B)
    ranked = sorted(range(len(ids)), key=lambda i: (-reward_B[i], ids[i]))
    if max_per_source is not None:
        ranked = _spread(ranked, pool.sources.take(table.samples_B), max(1, int(max_per_source * count + 1e-9)))
    best = np.asarray(ranked[:count], dtype=np.int64)
    return np.sort(table.samples_B[best[table.reused_B[best]]])


def _spread(ranked: list[int], sources: list[str], cap: int) -> list[int]:
    """Put what exceeds a source's share behind everything else."""
    taken: Counter[str] = Counter()
    first: list[int] = []
    later: list[int] = []
    for position in ranked:
        taken[sources[position]] += 1
        (first if taken[sources[position]] <= cap else later).append(position)
    return first + later
