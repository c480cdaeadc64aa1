"""Everything scored in a run, on disk before it counts, findable by micro-batch.

A record is one micro-batch's `Scores`; sketches go to a file of fixed-size rows beside the journal, written first, so
that a record never points at a missing row. Rows of a batch that was being written in a crash are simply never
pointed at.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from clusterucb.errors import RunFolderError
from clusterucb.run.disk import write_all, writing
from clusterucb.run.journal import Journal, Record, read_records
from clusterucb.run.replica import NO_REPLICA, Replica
from clusterucb.types import Failure, FloatArray, HalfArray, IntArray, Scores

STAGES = ("stored", "pool", "search", "shortlist", "audit")
"""Stages whose answers are logged here."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One logged micro-batch: where in the run it came from, and its scores without the sketches."""

    stage: str
    round: int
    scores: Scores
    first_sketch: int
    """Row of the first sample's sketch in the sketch file; -1 where none were taken."""
    reused: bool = False
    """Whether these are from the store, influence by sketch, rather than computed."""


class ScoreArchive:
    """What a run folder holds, read only."""

    def __init__(self, folder: Path) -> None:
        self._sketch_path = folder / "sketches.f16"
        self._entries: list[Scored] = []
        self._by_batch: dict[tuple[str, bytes], int] = {}
        self._reused: dict[tuple[str, int], int] = {}
        self._sketch_dim = 0
        journal = folder / "scores.journal"
        for record in read_records(journal) if journal.exists() else ():
            self._remember(_from_record(record), int(record.fields["sketch_dim"]))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Scored]:
        return iter(self._entries)

    def find(self, stage: str, samples_B: IntArray) -> Scores | None:
        """Return what was logged for exactly this micro-batch of this stage."""
        index = self._by_batch.get((stage, _batch_key(samples_B)))
        return None if index is None else self._entries[index].scores

    def find_reused(self, stage: str, samples_B: IntArray) -> Scores | None:
        """Return what was logged of a stage as taken from the store together with any of these samples."""
        found = (self._reused.get((stage, sample)) for sample in samples_B.tolist())
        index = next((index for index in found if index is not None), None)
        return None if index is None else self._entries[index].scores

    def sketches(self) -> Iterator[tuple[IntArray, HalfArray]]:
        """Yield (samples, unit sketches [B, D]) by micro-batch; the sketches are views of a memory map."""
        if self._sketch_dim == 0:
            return
        stored = np.memmap(self._sketch_path, dtype=np.float16, mode="r")
        stored = stored[: len(stored) // self._sketch_dim * self._sketch_dim].reshape(-1, self._sketch_dim)
        rows = max(entry.first_sketch + len(entry.scores.samples_B) for entry in self._entries)
        if len(stored) < rows:
            raise RunFolderError(
                f"{self._sketch_path} has {len(stored)} sketches where the journal beside it names {rows}: restore it "
                f"from a backup, or delete both to compute everything again"
            )
        for entry in self._entries:
            if entry.first_sketch >= 0:
                samples_B = entry.scores.samples_B
                yield samples_B, stored[entry.first_sketch : entry.first_sketch + len(samples_B)]

    def _remember(self, entry: Scored, sketch_dim: int) -> None:
        failed = np.asarray([failure.sample for failure in entry.scores.failures], dtype=np.int64)
        key = (entry.stage, _batch_key(np.concatenate([entry.scores.samples_B, failed])))
        self._by_batch[key] = len(self._entries)
        if entry.reused:
            self._reused.update(
                ((entry.stage, sample), len(self._entries)) for sample in entry.scores.samples_B.tolist()
            )
        self._entries.append(entry)
        self._sketch_dim = max(self._sketch_dim, sketch_dim)


class ScoreLog(ScoreArchive):
    """The archive of the run that is being written."""

    def __init__(self, folder: Path, replica: Replica = NO_REPLICA) -> None:
        self._journal = Journal(folder / "scores.journal", replica)  # repairs a bad end before the archive reads it
        super().__init__(folder)
        self._replica = replica
        with writing(self._sketch_path):
            self._sketches = self._sketch_path.open("ab", buffering=0)

    def append(self, stage: str, scored: Sequence[tuple[int, Scores]], reused: bool = False) -> None:
        """Write (round, scores) of some micro-batches of a stage: all sketches, then all records.

        Everything is on the disk when this returns, whatever their number at the price of two waits for it.
        """
        sketches = [scores.sketch_BD for _, scores in scored if scores.sketch_BD is not None and len(scores.samples_B)]
        row = self._append_sketches(sketches)
        entries: list[tuple[Scored, int]] = []
        for round_index, scores in scored:
            first, dim = -1, 0
            if scores.sketch_BD is not None and len(scores.samples_B):
                first, dim = row, scores.sketch_BD.shape[1]
                row += len(scores.samples_B)
            entries.append((Scored(stage, round_index, replace(scores, sketch_BD=None), first, reused), dim))
        self._journal.append(*(_to_record(entry, dim) for entry, dim in entries))
        for entry, dim in entries:
            self._remember(entry, dim)

    def close(self) -> None:
        """Close the files."""
        self._journal.close()
        self._sketches.close()

    def _append_sketches(self, blocks: Sequence[HalfArray]) -> int:
        """Write blocks of rows and return the number of the first row."""
        if not blocks:
            return -1
        row_bytes = blocks[0].shape[1] * blocks[0].itemsize
        first = -(-os.fstat(self._sketches.fileno()).st_size // row_bytes)
        data = np.concatenate(blocks).tobytes()
        with writing(self._sketch_path):
            self._sketches.truncate(first * row_bytes)  # fills up a row torn by a crash; no record points at it
            write_all(self._sketches.fileno(), data)
            os.fsync(self._sketches.fileno())
        self._replica.append(self._sketch_path, first * row_bytes, data)
        return first


def _batch_key(samples_B: IntArray) -> bytes:
    return np.sort(samples_B).astype(np.int64).tobytes()


def _to_record(entry: Scored, dim: int) -> Record:
    scores = entry.scores
    return Record(
        fields={
            "stage": entry.stage,
            "round": str(entry.round),
            "first_sketch": str(entry.first_sketch),
            "sketch_dim": str(dim),
            "reused": str(int(entry.reused)),
            "seconds": repr(scores.seconds),
            "failures": json.dumps([asdict(failure) for failure in scores.failures]),
        },
        arrays={
            "samples": scores.samples_B,
            "influence": scores.influence_BS,
            "squared_norm": scores.squared_norm_B,
            "loss": scores.loss_B,
        },
    )


def _from_record(record: Record) -> Scored:
    influence: FloatArray = record.arrays["influence"]
    scores = Scores(
        samples_B=record.arrays["samples"],
        influence_BS=influence,
        squared_norm_B=record.arrays["squared_norm"],
        loss_B=record.arrays["loss"],
        sketch_BD=None,
        failures=tuple(Failure(**failure) for failure in json.loads(record.fields["failures"])),
        seconds=float(record.fields["seconds"]),
    )
    return Scored(
        stage=record.fields["stage"],
        round=int(record.fields["round"]),
        scores=scores,
        first_sketch=int(record.fields["first_sketch"]),
        reused=record.fields.get("reused") == "1",
    )
