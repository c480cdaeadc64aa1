"""What a run takes from the sketch store and gives to it.

Invariants: what may be taken is settled when the run first opens the store and written down in the run folder, so that
a resumed run takes the same, whatever the store has gained meanwhile; what was taken is in the score log like anything
scored; a sketch from the store gives the influence that it gave when it was computed, bit for bit. A store that takes
no more ends no run.
"""

import fcntl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clusterucb.checkpoint.identity import Digests
from clusterucb.config import RunConfig, Store
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import ConfigError, RunFolderError
from clusterucb.gradients.sketch_influence import sketch_influence
from clusterucb.run.disk import replacing
from clusterucb.run.events import Emit, Note, Progressed
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import ScoreLog
from clusterucb.store.keys import Described, Device, fingerprints, key_of
from clusterucb.store.shards import Rows
from clusterucb.store.store import SHARD_BYTES, StoreReader, StoreWriter
from clusterucb.store.upkeep import evict
from clusterucb.types import FloatArray, IntArray, Scores

_BUFFER_BYTES = 1 << 23
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True, slots=True, eq=False)
class _Settled:
    """The samples that a run may take, and which row each is."""

    key: str
    samples: IntArray
    crc: npt.NDArray[np.uint32]


class KeptSketches:
    """What a run without a store takes and gives: nothing."""

    reused_N: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
    """Samples that are taken from the store."""

    def take(
        self, stage: str, samples_B: IntArray, log: ScoreLog, round_index: int = -1, sketches: bool = True
    ) -> tuple[list[Scores], IntArray]:
        """Log and return what is taken of these samples, and return those that are left to compute.

        Without `sketches` the log gets only what follows from them.
        """
        return [], samples_B

    def keep(self, scores: Sequence[Scores]) -> None:
        """Add what was computed to the store."""

    def close(self) -> None:
        """Let go of the store."""


NOTHING_KEPT = KeptSketches()


class OpenedSketches(KeptSketches):
    """The store as one run sees it."""

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        described: Described,
        pool: TokenStore,
        target_SD: FloatArray | None,
        emit: Emit,
    ) -> None:
        self.reused_N = np.zeros(pool.num_samples, np.bool_)
        self._path = path
        self._max_bytes = max_bytes
        self._pool = pool
        self._target_SD = target_SD
        self._emit = emit
        self._reader = StoreReader(path, described)
        shard_bytes = min(SHARD_BYTES, max(1 << 20, max_bytes // 8))
        self._writer: StoreWriter | None = StoreWriter(path, described, shard_bytes)
        self._row_N = np.full(pool.num_samples, -1, np.int64)
        self._buffer: list[Rows] = []
        self._buffered = 0
        self._since_eviction = 0
        self._shard_bytes = shard_bytes

    def settle(self, file: Path, folder: RunFolder, key: str) -> None:
        """Decide what may be taken, or find what was decided when the run began."""
        usable = np.flatnonzero(self._pool.usable_N)
        self._row_N[usable] = self._reader.find(fingerprints(self._pool, usable))
        if not file.exists():
            there = np.flatnonzero(self._row_N >= 0)
            with replacing(file) as beside, beside.open("wb") as out:
                np.savez(out, key=np.str_(key), samples=there, crc=self._reader.checksums(self._row_N[there]))
            folder.replica.put(file)
        with np.load(file) as found:
            settled = _Settled(str(found["key"]), found["samples"], found["crc"])
        if settled.key != key:
            raise RunFolderError(
                f"{folder.location} was begun with sketches of {settled.key}, and those of its checkpoint are {key} "
                f"now: give the checkpoint, device and libraries that it was begun with, or start anew with --out"
            )
        self.reused_N[settled.samples] = self._row_N[settled.samples] >= 0
        still = np.flatnonzero(self.reused_N)
        then = settled.crc[np.searchsorted(settled.samples, still)]
        self.reused_N[still] = self._reader.checksums(self._row_N[still]) == then
        if lost := len(settled.samples) - int(self.reused_N.sum()):
            self._emit(Note(text=f"store: {lost} sketches are gone since this run began: computed anew where needed"))

    def take(
        self, stage: str, samples_B: IntArray, log: ScoreLog, round_index: int = -1, sketches: bool = True
    ) -> tuple[list[Scores], IntArray]:
        """Log and return what is taken of these samples, and return those that are left to compute."""
        taken: list[Scores] = []
        for start in range(0, len(samples_B), _ROWS_AT_ONCE):
            block = samples_B[start : start + _ROWS_AT_ONCE]
            scores = log.find_reused(stage, block)
            if scores is None:
                scores = self._read(block[self.reused_N[block]])
                if not len(scores.samples_B):
                    continue
                log.append(stage, [(round_index, scores if sketches else replace(scores, sketch_BD=None))], reused=True)
                best, count = float(scores.influence_BS.max()), len(scores.samples_B)
                self._emit(Progressed(stage=stage, samples=count, tokens=0, seconds=0.0, best=best, reused=count))
            taken.append(replace(scores, sketch_BD=None))
        together = np.concatenate([np.empty(0, np.int64), *(scores.samples_B for scores in taken)])
        return taken, samples_B[~np.isin(samples_B, together)]

    def keep(self, scores: Sequence[Scores]) -> None:
        """Add what was computed to the store."""
        if self._writer is None:
            return
        for each in scores:
            if each.sketch_BD is None or not len(each.samples_B):
                continue
            names_B = fingerprints(self._pool, each.samples_B)
            new_B = self._reader.find(names_B) < 0
            self._buffer.append(
                Rows(
                    fingerprint_R=names_B[new_B],
                    sketch_RD=each.sketch_BD[new_B],
                    squared_norm_R=each.squared_norm_B[new_B],
                    loss_R=each.loss_B[new_B],
                    num_tokens_R=self._pool.lengths_N[each.samples_B[new_B]].astype(np.int32),
                )
            )
            self._buffered += self._buffer[-1].sketch_RD.nbytes
        if self._buffered >= _BUFFER_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left, bring the store within its bound and let go of it."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
        self._reader.close()
        self._evict()

    def _read(self, samples_B: IntArray) -> Scores:
        rows, sound_B = self._reader.read(self._row_N[samples_B])
        if damaged := int((~sound_B).sum()):
            self._emit(Note(text=f"store: {damaged} sketches are damaged and computed anew: `clusterucb store verify`"))
        assert self._target_SD is not None, "only what is scored by sketch is taken"
        sketch_BD = rows.sketch_RD[sound_B]
        return Scores(
            samples_B=samples_B[sound_B],
            influence_BS=sketch_influence(sketch_BD, self._target_SD),
            squared_norm_B=rows.squared_norm_R[sound_B],
            loss_B=rows.loss_R[sound_B],
            sketch_BD=sketch_BD,
            failures=(),
            seconds=0.0,
        )

    def _flush(self) -> None:
        if self._writer is None or not self._buffer:
            return
        joined = Rows(*(np.concatenate([getattr(rows, name) for rows in self._buffer]) for name in Rows.__slots__))
        try:
            self._writer.append(joined)
        except OSError as error:
            self._emit(Note(text=f"store: {self._path} takes no more ({error.strerror}): this run adds nothing to it"))
            self._writer.close()
            self._writer = None
        self._since_eviction += self._buffered
        self._buffer, self._buffered = [], 0
        if self._since_eviction >= self._shard_bytes:
            self._evict()

    def _evict(self) -> None:
        self._since_eviction = 0
        if gone := evict(self._path, self._max_bytes):
            mib = sum(shard.num_bytes for shard in gone) / 2**20
            self._emit(Note(text=f"store: {mib:.0f} MiB of the least recently used sketches made room (store.max_gib)"))


def open_kept(
    config: RunConfig, folder: RunFolder, pool: TokenStore, target_SD: FloatArray | None, device: Device, emit: Emit
) -> KeptSketches:
    """Open the store of a run, if it has one. Raises ConfigError where it cannot be used."""
    settled = folder.state / "store.npz"
    if config.store.path is None:
        if settled.exists():
            emit(Note(text="store: this run was begun with one; what it would take from it is computed"))
        return NOTHING_KEPT
    path = Path(config.store.path).expanduser()
    check_store(config.store)
    described = key_of(config, device, Digests(path / "digests"))
    kept = OpenedSketches(path, int(config.store.max_gib * 2**30), described, pool, target_SD, emit)
    if config.gradients.scoring != "exact":
        kept.settle(settled, folder, described.key.digest)
    return kept


def check_store(config: Store) -> None:
    """Raise ConfigError for a store that cannot be written or locked."""
    if config.path is None:
        return
    path = Path(config.path).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with (path / ".lock").open("ab") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        raise ConfigError(
            f"store.path {path} cannot be used ({error.strerror}): give a folder that can be written, on a file system "
            f"with locks (flock), or leave it out"
        ) from None
