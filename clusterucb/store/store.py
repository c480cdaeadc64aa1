"""The sketches of one key, over all its shards: found by sample, read in bulk, added to.

Invariants: a reader sees what was there when it was opened, and nothing of it is removed until it is closed; writers,
in any number of processes, never touch the same shard; of rows that name the same sample the first counts; a row that
does not agree with its checksum is not there.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from clusterucb.store.keys import Described
from clusterucb.store.shards import FINGERPRINT, Fingerprints, Rows, Shard, ShardWriter, shard_paths
from clusterucb.types import IntArray

SHARD_BYTES = 1 << 28
KEY_FILE = "key.json"


def key_folder(store: Path, described: Described) -> Path:
    """Return where a store keeps the sketches of a key."""
    return store / described.key.digest


class StoreReader:
    """What a store holds for a key at this time."""

    def __init__(self, store: Path, described: Described) -> None:
        dim = described.dim
        opened = (Shard.open(path, dim) for path in shard_paths(key_folder(store, described)))
        self._shards: Sequence[Shard] = tuple(shard for shard in opened if shard is not None)
        self._starts = np.cumsum([0, *(len(shard) for shard in self._shards)])
        names = np.concatenate([np.empty(0, FINGERPRINT), *(shard.index.fingerprint_R for shard in self._shards)])
        self._words_R2 = _words(names)
        self._order = np.argsort(self._words_R2[:, 0], kind="stable")
        self._dim = dim

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __enter__(self) -> "StoreReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def find(self, names_N: Fingerprints) -> IntArray:
        """Return the row of every sample, -1 where there is none."""
        if not len(self._order) or not len(names_N):
            return np.full(len(names_N), -1, np.int64)
        words_N2, first_R = _words(names_N), self._words_R2[self._order, 0]
        at_N = np.minimum(np.searchsorted(first_R, words_N2[:, 0]), len(first_R) - 1)
        row_N = self._order[at_N]
        return np.where((self._words_R2[row_N] == words_N2).all(axis=1), row_N, -1)

    def checksums(self, rows: IntArray) -> npt.NDArray[np.uint32]:
        """Return the recorded checksum of rows: rows that agree in it and in their name are the same."""
        crc_R = np.concatenate([np.empty(0, np.uint32), *(shard.index.crc_R for shard in self._shards)])
        return crc_R[rows]

    def read(self, rows: IntArray) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Return rows in this order, and which of them are sound; what they come from counts as used now."""
        found = Rows(
            fingerprint_R=np.empty(len(rows), FINGERPRINT),
            sketch_RD=np.empty((len(rows), self._dim), np.float16),
            squared_norm_R=np.empty(len(rows), np.float32),
            loss_R=np.empty(len(rows), np.float32),
            num_tokens_R=np.empty(len(rows), np.int32),
        )
        sound_R = np.zeros(len(rows), np.bool_)
        order = np.argsort(rows, kind="stable")  # along the files
        bounds = np.searchsorted(rows[order], self._starts)
        for shard, start, low, high in zip(self._shards, self._starts[:-1], bounds[:-1], bounds[1:], strict=True):
            if low == high:
                continue
            at = order[low:high]
            part, sound_R[at] = shard.read(rows[at] - start)
            for name in Rows.__slots__:
                getattr(found, name)[at] = getattr(part, name)
            shard.touch()
        return found, sound_R

    def close(self) -> None:
        """Let go of all shards."""
        for shard in self._shards:
            shard.close()


class StoreWriter:
    """Adds rows to a key, in shards of its own."""

    def __init__(self, store: Path, described: Described, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = key_folder(store, described)
        self._described = described
        self._dim = described.dim
        self._shard_bytes = shard_bytes
        self._shard: ShardWriter | None = None

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, rows: Rows) -> None:
        """Add rows; they are on the disk when this returns. Raises OSError where it takes no more."""
        if not len(rows):
            return
        if self._shard is not None and self._shard.num_bytes >= self._shard_bytes:
            self.close()
        if self._shard is None:
            self._shard = self._a_shard()
        self._shard.append(rows)

    def close(self) -> None:
        """Let go of the shard."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _a_shard(self) -> ShardWriter:
        """Go on with a shard that has room and no writer, or begin one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        _write_key(self._folder, self._described)
        taken = shard_paths(self._folder)
        for path in reversed(taken):
            adopted = ShardWriter.adopt(path, self._dim)
            if adopted is not None:
                if adopted.num_bytes < self._shard_bytes:
                    return adopted
                adopted.close()
        number = 1 + max((int(path.stem) for path in taken), default=-1)
        while (created := ShardWriter.create(self._folder / f"{number:06d}.arrows", self._dim)) is None:
            number += 1
        return created


def _write_key(folder: Path, described: Described) -> None:
    path = folder / KEY_FILE
    if path.exists():
        return
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(described.model_dump_json(indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def _words(names_N: Fingerprints) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(names_N).view("<u8").reshape(-1, 2)
