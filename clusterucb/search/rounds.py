"""How many draws a round has: a function of the configuration and the cluster sizes, never of workers or clocks."""

import numpy as np

from clusterucb.config import Predictive, Rounds, Search
from clusterucb.search.ledger import buys
from clusterucb.types import IntArray

LEAST_START = 8
"""Draws that a prediction starts from at least, where the budget has them."""


def cold_start_K(size_K: IntArray, config: Search) -> IntArray:
    """Return how many draws each arm gets in round 0."""
    if isinstance(config.allocator, Predictive):
        usable = int(size_K.sum())
        limit = buys(config.budget, usable)
        return _spread(size_K, min(limit, max(LEAST_START, int(np.ceil(config.allocator.start * limit - 1e-9)))))
    return cluster_start_K(size_K, config)


def cluster_start_K(size_K: IntArray, config: Search) -> IntArray:
    """Return how many draws say the first of each arm, whatever the allocator."""
    if config.compat == "official":
        wanted_K = np.maximum(np.floor(config.cold_start * size_K + 1e-9), 1)
    else:
        wanted_K = np.maximum(np.ceil(config.first_share * size_K - 1e-9), config.first_min)
    return np.minimum(size_K, wanted_K.astype(np.int64))


def _spread(size_K: IntArray, count: int) -> IntArray:
    """Share `count` draws out in proportion to the sizes: evenly spaced positions of all samples laid end to end."""
    ends_K = np.cumsum(size_K)
    reached_K = ends_K * count // max(int(ends_K[-1]), 1)
    return np.diff(reached_K, prepend=0)


def round_size(planned: int, left: int, rounds: Rounds) -> int:
    """Return the next round's draws after `planned` ones, with `left` to spend: in proportion to what is known."""
    return min(max(rounds.first, int((rounds.growth - 1.0) * planned + 1e-9)), left)


def round_sizes(limit: int, cold_start: int, rounds: Rounds) -> tuple[int, ...]:
    """Return the draws of every round that spends `limit`, the cold start first, as long as no draw fails."""
    sizes = [cold_start]
    planned = cold_start
    while planned < limit:
        sizes.append(round_size(planned, limit - planned, rounds))
        planned += sizes[-1]
    return tuple(sizes)
