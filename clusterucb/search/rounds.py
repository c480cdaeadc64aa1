"""How many draws a round has: a function of the configuration and the cluster sizes, never of workers or clocks."""

import numpy as np

from clusterucb.config import Rounds, Search
from clusterucb.types import IntArray


def cold_start_K(size_K: IntArray, config: Search) -> IntArray:
    """Return how many draws each arm gets in round 0."""
    if config.compat == "official":
        wanted_K = np.maximum(np.floor(config.cold_start * size_K + 1e-9), 1)
    else:
        wanted_K = np.maximum(np.ceil(config.cold_start * size_K - 1e-9), config.cold_start_min)
    return np.minimum(size_K, wanted_K.astype(np.int64))


def round_size(index: int, rounds: Rounds, limit: int) -> int:
    """Return the draws of round `index` (1, 2, ..) where at most `limit` are left."""
    exponent = index - 1
    if rounds.growth > 1.0 and exponent * np.log(rounds.growth) > np.log(max(limit, 1) / rounds.first):
        return limit
    return min(int(rounds.first * rounds.growth**exponent + 1e-9), limit)
