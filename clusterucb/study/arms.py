"""What each arm trains on, as positions in the tokenised pool, ascending.

Invariants: only usable samples; what is drawn follows from the study's seed, the trial's number and the pool; a matched
subset has as many samples as the selected one, each about as long (all tokens, and those of its answers).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from clusterucb.data.tokens import TokenStore
from clusterucb.errors import DataError
from clusterucb.training.order import generator
from clusterucb.types import IntArray

NEIGHBOURS = 16
"""Samples of nearest length, not taken yet, among which a matched one is drawn."""
_CELL = 0.1
"""Lengths are told apart by tenths of their logarithm."""


def random_subset(pool: TokenStore, count: int, seed: int) -> IntArray:
    """Draw `count` usable samples."""
    usable = np.flatnonzero(pool.usable_N)
    return np.sort(generator("study random", seed).permutation(usable)[:count])


def matched_subset(pool: TokenStore, samples: IntArray, seed: int) -> IntArray:
    """Draw for each sample, the longest first, one of about its length; the samples themselves may be drawn too."""
    usable = np.flatnonzero(pool.usable_N)
    rng = generator("study matched", seed)
    shuffled = usable[rng.permutation(len(usable))]
    cells_C2, cell_N = np.unique(_cells(pool, shuffled), axis=0, return_inverse=True)
    members = np.argsort(cell_N.reshape(-1), kind="stable")
    left_C = np.bincount(cell_N.reshape(-1), minlength=len(cells_C2))
    end_C = np.cumsum(left_C)
    taken: list[int] = []
    for sample in samples[np.lexsort((samples, -pool.label_counts_N[samples]))]:
        apart_C = np.abs(cells_C2 - _cells(pool, np.asarray([sample]))).sum(axis=1)
        order = np.argsort(apart_C, kind="stable")
        order = order[left_C[order] > 0]
        near = order[: int(np.searchsorted(np.cumsum(left_C[order]), NEIGHBOURS)) + 1]
        shares = left_C[near] / left_C[near].sum()
        cell = int(near[rng.choice(len(near), p=shares)])
        taken.append(int(shuffled[members[end_C[cell] - left_C[cell]]]))
        left_C[cell] -= 1
    return np.sort(np.asarray(taken, np.int64))


def _cells(pool: TokenStore, samples: IntArray) -> IntArray:
    lengths_N2 = np.stack([pool.lengths_N[samples], pool.label_counts_N[samples]], axis=1)
    return np.rint(np.log(lengths_N2) / _CELL).astype(np.int64)


def brought_subset(pool: TokenStore, path: Path, name: str) -> IntArray:
    """Read the samples that a file names. Raises DataError for ids that the pool does not have, or cannot train on."""
    ids = read_ids(path)
    position = {pool.ids[sample]: sample for sample in range(len(pool))}
    if unknown := [each for each in ids if each not in position]:
        raise DataError(
            f"{path} (arm {name}) names {len(unknown)} ids that the pool does not have, first {unknown[0]!r}: give "
            f"ids of pool rows, as their `id` or as scores.parquet has them"
        )
    samples = np.unique(np.asarray([position[each] for each in ids], np.int64))
    usable = samples[pool.usable_N[samples]]
    if not len(usable):
        raise DataError(f"none of the {len(samples)} samples of {path} (arm {name}) can be trained on")
    return usable


def read_ids(path: Path) -> tuple[str, ...]:
    """Return the ids in a file: one a line, or JSON lines with `clusterucb.id` or `id`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable file of ids ({error}): give one id a line, or JSON lines") from None
    found = tuple(_id(line, path, number) for number, line in enumerate(lines, 1) if line.strip())
    if not found:
        raise DataError(f"{path} names no sample: give one id a line, or JSON lines")
    return found


def _id(line: str, path: Path, number: int) -> str:
    if not line.lstrip().startswith("{"):
        return line.strip()
    try:
        row = cast(dict[str, Any], json.loads(line))
    except ValueError as error:
        raise DataError(f"{path}, line {number} is no JSON ({error})") from None
    ours: Any = row.get("clusterucb")
    if isinstance(ours, Mapping) and "id" in ours:
        return str(cast(Mapping[str, Any], ours)["id"])
    if "id" not in row:
        raise DataError(f"{path}, line {number} has neither clusterucb.id nor id: give rows of a selection, or ids")
    return str(row["id"])
