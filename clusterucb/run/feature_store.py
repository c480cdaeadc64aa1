"""Features of the pool on disk: gathered micro-batch by micro-batch, then one memory-mapped matrix in pool order.

Each part of the features has a store, under the part's name. Invariant: `<name>.npy` appears only when it is complete;
until then a journal holds what was computed, so that an interrupted pass goes on where it stopped.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clusterucb.run.disk import replacing, write_atomically
from clusterucb.run.journal import Journal, Record
from clusterucb.run.part_names import FIRST
from clusterucb.run.replica import NO_REPLICA, Replica
from clusterucb.types import Failure, HalfArray, Hidden, IntArray


class FeatureStore:
    """Features of N pool samples in a folder."""

    def __init__(self, folder: Path, num_samples: int, replica: Replica = NO_REPLICA, name: str = FIRST) -> None:
        self._matrix = folder / f"{name}.npy"
        self._facts = folder / f"{name}.json"
        self._journal_path = folder / f"{name}.journal"
        self._num_samples = num_samples
        self._replica = replica
        self._journal: Journal | None = None

    @property
    def complete(self) -> bool:
        """Whether the matrix is on disk."""
        return self._facts.exists()

    def open(self) -> list[int]:
        """Open the journal for appending; return the jobs that are already in it."""
        self._journal = Journal(self._journal_path, self._replica)
        return [int(record.fields["job"]) for record in self._journal.records()]

    def append(self, answers: Sequence[tuple[int, Hidden]]) -> None:
        """Keep the answers to some jobs; all are on the disk when this returns."""
        assert self._journal is not None
        self._journal.append(*(_to_record(job, answer) for job, answer in answers))

    def seconds(self) -> float:
        """Return what workers spent on what the journal holds."""
        assert self._journal is not None
        return sum(float(record.fields["seconds"]) for record in self._journal.records())

    def consolidate(self, beforehand: Iterable[Failure] = ()) -> None:
        """Turn the journal into the matrix; `beforehand` are failures of samples that were no part of a job."""
        assert self._journal is not None
        failures = list(beforehand)
        for record in self._journal.records():
            failures += [Failure(**failure) for failure in json.loads(record.fields["failures"])]
        blocks = ((record.arrays["samples"], record.arrays["features"]) for record in self._journal.records())
        self.write(blocks, failures)
        self._journal.close()
        self._journal_path.unlink()
        self._replica.remove(self._journal_path)

    def write(self, blocks: Iterable[tuple[IntArray, npt.NDArray[np.floating]]], failures: Iterable[Failure]) -> None:
        """Write the matrix from blocks of (samples, features); rows that no block names stay zero."""
        with replacing(self._matrix) as beside:
            matrix: np.memmap[Any, np.dtype[np.float16]] | None = None
            for samples_B, features_BF in blocks:
                if not len(samples_B):
                    continue  # it may not know F
                if matrix is None:
                    matrix = _mapped(beside, (self._num_samples, features_BF.shape[1]))
                matrix[samples_B] = features_BF
            if matrix is None:
                matrix = _mapped(beside, (self._num_samples, 1))
            matrix.flush()
            del matrix
        write_atomically(self._facts, json.dumps([asdict(failure) for failure in failures]))
        self._replica.put(self._matrix)
        self._replica.put(self._facts)

    def matrix(self) -> HalfArray:
        """Return the features [N, F], memory-mapped."""
        return np.load(self._matrix, mmap_mode="r")

    def failures(self) -> tuple[Failure, ...]:
        """Return the samples that have no features."""
        return tuple(Failure(**failure) for failure in json.loads(self._facts.read_text(encoding="utf-8")))


def _mapped(path: Path, shape: tuple[int, int]) -> "np.memmap[Any, np.dtype[np.float16]]":
    """Map a new matrix of zeros. Its space is taken at once: a full disk would end a process that writes to a map."""
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return matrix


def _to_record(job: int, answer: Hidden) -> Record:
    failures = json.dumps([asdict(failure) for failure in answer.failures])
    fields = {"job": str(job), "failures": failures, "seconds": repr(answer.seconds)}
    return Record(fields, {"samples": answer.samples_B, "features": answer.features_BF})
