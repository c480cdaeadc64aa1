"""Pairs of rows that are similar, and which rows stay.

Candidates share a key; of many rows with one key, each is compared with the first and the few just before it, which
keeps the work linear. A row leaves for an earlier row that stays and that it is similar to: so every row that leaves
has a partner that is there, at or above the threshold, and a chain of ever less similar rows is not drawn in.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clusterucb.gates.shingles import Real, Shingles
from clusterucb.gates.words import Hashes
from clusterucb.types import IntArray

_BEFORE = 4
"""Rows just before it that a row is compared with, among those of one key."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """P pairs of similar rows: `first_P[i]` and `second_P[i]`, each pair once."""

    first_P: IntArray
    second_P: IntArray
    similarity_P: Real


def similar_pairs(
    keys: Iterator[Hashes], rows: IntArray, sets: Shingles, threshold: float, tick: Callable[[], None]
) -> Pairs:
    """Return the similar pairs among `rows` (ascending), given each band's keys of all rows."""

    def candidates(keys_N: Hashes) -> tuple[IntArray, IntArray]:
        order = np.argsort(keys_N[rows], kind="stable")
        sorted_n = keys_N[rows][order]
        ordered = rows[order]
        new_n = np.concatenate(([True], sorted_n[1:] != sorted_n[:-1]))
        leader_n = np.maximum.accumulate(np.where(new_n, np.arange(len(new_n)), 0))
        at = np.flatnonzero(~new_n)
        back = [np.maximum(at - step, leader_n[at]) for step in range(1, _BEFORE + 1)]
        return ordered[np.concatenate([leader_n[at], *back])], ordered[np.tile(at, _BEFORE + 1)]

    return _verified(keys, candidates, sets, threshold, tick)


def pairs_with(
    keys: Iterator[Hashes], rows: IntArray, others: IntArray, sets: Shingles, threshold: float, tick: Callable[[], None]
) -> Pairs:
    """Return the similar pairs of one of a few `others` (first) and one of `rows` (second)."""

    def candidates(keys_N: Hashes) -> tuple[IntArray, IntArray]:
        wanted = np.sort(np.unique(keys_N[others]))
        found = rows[np.isin(keys_N[rows], wanted)]
        order = np.argsort(keys_N[found], kind="stable")
        sorted_n = keys_N[found][order]
        left = np.searchsorted(sorted_n, keys_N[others], side="left")
        count = np.searchsorted(sorted_n, keys_N[others], side="right") - left
        at = np.repeat(left - (np.cumsum(count) - count), count) + np.arange(int(count.sum()))
        return np.repeat(others, count), found[order][at]

    return _verified(keys, candidates, sets, threshold, tick)


def _verified(
    keys: Iterator[Hashes],
    candidates: Callable[[Hashes], tuple[IntArray, IntArray]],
    sets: Shingles,
    threshold: float,
    tick: Callable[[], None],
) -> Pairs:
    num_rows = len(sets.sizes_N)
    codes, similarities = np.empty(0, np.int64), np.empty(0)
    for keys_N in keys:
        first, second = candidates(keys_N)
        small, large = np.sort([sets.sizes_N[first], sets.sizes_N[second]], axis=0)
        worth = (small >= threshold * large - 1e-9) & (small > 0)
        new = np.setdiff1d(first[worth] * num_rows + second[worth], codes)
        found = sets.similarities(new // num_rows, new % num_rows, tick)
        similar = found >= threshold - 1e-9
        codes, similarities = np.append(codes, new[similar]), np.append(similarities, found[similar])
        order = np.argsort(codes, kind="stable")
        codes, similarities = codes[order], similarities[order]
        tick()
    return Pairs(codes // num_rows, codes % num_rows, similarities)


def leaving(pairs: Pairs, num_rows: int) -> tuple[IntArray, Real]:
    """Return for each row the one that it leaves for (-1: it stays) and their similarity; `first_P` < `second_P`."""
    partner_N, similarity_N = np.full(num_rows, -1, np.int64), np.zeros(num_rows)
    order = np.lexsort((pairs.first_P, -pairs.similarity_P, pairs.second_P))
    for first, second, similarity in zip(
        pairs.first_P[order].tolist(), pairs.second_P[order].tolist(), pairs.similarity_P[order].tolist(), strict=True
    ):
        if partner_N[second] < 0 and partner_N[first] < 0:
            partner_N[second], similarity_N[second] = first, similarity
    return partner_N, similarity_N


def best_partner(pairs: Pairs, num_rows: int) -> tuple[IntArray, Real]:
    """Return for each second row the first one most similar to it (-1: none), the lowest of equals."""
    partner_N, similarity_N = np.full(num_rows, -1, np.int64), np.zeros(num_rows)
    order = np.lexsort((-pairs.first_P, pairs.similarity_P))
    partner_N[pairs.second_P[order]] = pairs.first_P[order]
    similarity_N[pairs.second_P[order]] = pairs.similarity_P[order]
    return partner_N, similarity_N
