"""Which samples an optimizer step sees, and in how many passes: a function of seed and step alone.

Invariants: every epoch shows every sample once; a step can be found without those before it, so that a training taken
up in the middle goes on with the same samples; the passes of a step do not depend on the number of ranks, which share
them out in turn.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from clusterucb.config import Training
from clusterucb.run.batching import micro_batches
from clusterucb.training.stretch import steps_an_epoch
from clusterucb.types import IntArray

_NEIGHBOURS = 50
"""Batches among which samples of like length are put together."""


class Order:
    """The samples of every step of a stretch that begins at `first_step`. `lengths_N` are those of the whole pool."""

    def __init__(
        self, samples: IntArray, lengths_N: IntArray, training: Training, seed: int, first_step: int = 0
    ) -> None:
        assert len(samples), "there is nothing to train on"
        self._samples = samples
        self._lengths_N = lengths_N
        self._training = training
        self._seed = (seed, first_step)
        self._per_epoch = steps_an_epoch(len(samples), training.batch_size)
        self._epoch: tuple[int, list[IntArray]] | None = None

    def samples_at(self, step: int) -> IntArray:
        """Return the samples of a step, counted from 0 over all epochs."""
        epoch, place = divmod(step, self._per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._batches(epoch))
        return self._epoch[1][place]

    def passes_at(self, step: int) -> list[IntArray]:
        """Return the samples of a step's passes, the longest first."""
        budget = self._training.batch_tokens
        if self._training.packing:
            return _packed(self.samples_at(step), self._lengths_N, budget)
        return micro_batches(self.samples_at(step), self._lengths_N, budget)

    def _batches(self, epoch: int) -> list[IntArray]:
        rng = generator("order", *self._seed, epoch)
        size = self._training.batch_size
        shuffled = self._samples[rng.permutation(len(self._samples))]
        if self._training.group_by_length:
            wide = size * _NEIGHBOURS
            parts = [shuffled[i : i + wide] for i in range(0, len(shuffled), wide)]
            shuffled = np.concatenate([part[np.argsort(-self._lengths_N[part], kind="stable")] for part in parts])
        batches: list[IntArray] = [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
        if self._training.group_by_length:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches


def dealt(passes: Sequence[IntArray], rank: int, ranks: int) -> list[IntArray | None]:
    """Return a rank's passes; none where it has one less than others, so that all take as many turns."""
    turns = -(-len(passes) // ranks)
    mine = [turn * ranks + rank for turn in range(turns)]
    return [passes[i] if i < len(passes) else None for i in mine]


def generator(purpose: str, *numbers: int) -> np.random.Generator:
    """Return the random stream of a purpose at a place that these numbers count."""
    key = hashlib.blake2b(" ".join(map(str, (purpose, *numbers))).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _packed(samples_B: IntArray, lengths_N: IntArray, budget: int) -> list[IntArray]:
    """Fill rows of `budget` tokens, the longest samples first, each into the first row that has room for it."""
    lengths_B = lengths_N[samples_B]
    rows: list[list[int]] = []
    left: list[int] = []
    for i in np.lexsort((samples_B, -lengths_B)).tolist():
        length = int(lengths_B[i])
        row = next((row for row, room in enumerate(left) if room >= length), None)
        if row is None:
            rows.append([])
            left.append(budget)
            row = len(rows) - 1
        rows[row].append(int(samples_B[i]))
        left[row] -= length
    return [np.asarray(row, dtype=np.int64) for row in rows]
