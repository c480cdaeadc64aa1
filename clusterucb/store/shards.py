"""One shard: sketches as `<number>.npy`, and what goes with each row as an Arrow stream beside it, `<number>.arrows`.

Invariants: rows are only ever added; a row counts once the index names it, and by then its sketch is on the disk; every
row carries a CRC-32 of all that it says, checked whenever it is read. A torn end, as a crash leaves it, is left out by
readers and cut off by the next writer.

Two locks (`flock`) guard a shard. Whoever reads or writes it shares the index's, and only who holds that one alone may
remove the shard; the matrix's belongs to the one writer.
"""

# pyarrow is typed only in part: what it leaves unknown is not ours to declare.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import contextlib
import fcntl
import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clusterucb.types import FloatArray, HalfArray, IntArray

Fingerprints = npt.NDArray[np.void]
"""[N] of 16 bytes each."""

FINGERPRINT = np.dtype("V16")
_HEADER_BYTES = 128
_SCHEMA = pa.schema(
    [
        ("fingerprint", pa.binary(16)),
        ("squared_norm", pa.float32()),
        ("loss", pa.float32()),
        ("num_tokens", pa.int32()),
        ("crc", pa.uint32()),
    ]
)
_CRC_START = zlib.crc32(b"clusterucb sketch 1")  # so that a row of zeros is not a sound one


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """R samples: what they are, and what was computed of them."""

    fingerprint_R: Fingerprints
    sketch_RD: HalfArray
    squared_norm_R: FloatArray
    loss_R: FloatArray
    num_tokens_R: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.fingerprint_R)


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """The rows of a shard without their sketches."""

    fingerprint_R: Fingerprints
    squared_norm_R: FloatArray
    loss_R: FloatArray
    num_tokens_R: npt.NDArray[np.int32]
    crc_R: npt.NDArray[np.uint32]
    num_bytes: int
    """Of the sound part of the file."""

    def __len__(self) -> int:
        return len(self.fingerprint_R)


def crcs(rows: Rows) -> npt.NDArray[np.uint32]:
    """Return the checksum of every row."""
    facts = np.empty(len(rows), np.dtype([("f", FINGERPRINT), ("n", "<f4"), ("l", "<f4"), ("t", "<i4")]))
    facts["f"], facts["n"], facts["l"] = rows.fingerprint_R, rows.squared_norm_R, rows.loss_R
    facts["t"] = rows.num_tokens_R
    sketches = np.ascontiguousarray(rows.sketch_RD, dtype="<f2")
    sums = [zlib.crc32(sketches[i].data, zlib.crc32(facts[i].tobytes(), _CRC_START)) for i in range(len(rows))]
    return np.asarray(sums, np.uint32)


class Shard:
    """A shard that is held open: nobody removes it until it is closed."""

    def __init__(self, index_path: Path, dim: int, index_file: IO[bytes]) -> None:
        self.path = index_path
        self.dim = dim
        self._index_file = index_file
        self.index = _read_index(index_file, _rows_in(matrix_path(index_path), dim))
        self._sketches: npt.NDArray[np.float16] | None = None

    @classmethod
    def open(cls, index_path: Path, dim: int) -> "Shard | None":
        """Open a shard for reading; None where it is being removed or was."""
        try:
            file = index_path.open("rb", buffering=0)
        except FileNotFoundError:
            return None
        if _locked(file, fcntl.LOCK_SH) and _still_there(file, index_path):
            return cls(index_path, dim, file)
        file.close()
        return None

    def __len__(self) -> int:
        return len(self.index)

    def __enter__(self) -> "Shard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, rows: IntArray) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Return rows by number, in this order, and which of them are sound."""
        if self._sketches is None:
            shape = (len(self.index), self.dim)
            self._sketches = np.memmap(matrix_path(self.path), "<f2", "r", offset=_HEADER_BYTES, shape=shape)
        index = self.index
        found = Rows(
            fingerprint_R=index.fingerprint_R[rows],
            sketch_RD=np.asarray(self._sketches[rows]),
            squared_norm_R=index.squared_norm_R[rows],
            loss_R=index.loss_R[rows],
            num_tokens_R=index.num_tokens_R[rows],
        )
        return found, crcs(found) == index.crc_R[rows]

    def touch(self) -> None:
        """Remember that the shard was of use just now, where this user may."""
        with contextlib.suppress(PermissionError):
            os.utime(self._index_file.fileno())

    def close(self) -> None:
        """Let go of the shard."""
        self._sketches = None
        self._index_file.close()


class ShardWriter(Shard):
    """The one writer of a shard."""

    def __init__(self, index_path: Path, dim: int, index_file: IO[bytes], matrix_file: IO[bytes]) -> None:
        super().__init__(index_path, dim, index_file)
        self._matrix_file = matrix_file
        self._num_rows = len(self.index)
        self._index_bytes = self.index.num_bytes
        if self._index_bytes == 0:
            self._index_bytes = _write_at(index_file, 0, _SCHEMA.serialize().to_pybytes())
        index_file.truncate(self._index_bytes)
        matrix_file.truncate(self._offset)
        self._write_header()

    @classmethod
    def create(cls, index_path: Path, dim: int) -> "ShardWriter | None":
        """Begin a shard; None where the name is taken."""
        try:
            file = index_path.open("x+b", buffering=0)
        except FileExistsError:
            return None
        return cls._held(index_path, dim, file, "w+b")

    @classmethod
    def adopt(cls, index_path: Path, dim: int) -> "ShardWriter | None":
        """Go on with a shard that nobody writes; None where somebody does, or it is gone."""
        try:
            file = index_path.open("r+b", buffering=0)
        except FileNotFoundError:
            return None
        return cls._held(index_path, dim, file, "r+b")

    @classmethod
    def _held(cls, index_path: Path, dim: int, file: IO[bytes], mode: str) -> "ShardWriter | None":
        if _locked(file, fcntl.LOCK_SH) and _still_there(file, index_path):
            try:
                matrix_file: IO[Any] = open(matrix_path(index_path), mode, buffering=0)  # noqa: SIM115
            except FileNotFoundError:  # its creator died between the two
                matrix_file = open(matrix_path(index_path), "w+b", buffering=0)  # noqa: SIM115
            if _locked(matrix_file, fcntl.LOCK_EX):
                return cls(index_path, dim, file, matrix_file)
            matrix_file.close()
        file.close()
        return None

    @property
    def num_bytes(self) -> int:
        """Size of both files."""
        return self._offset + self._index_bytes

    @property
    def _offset(self) -> int:
        return _HEADER_BYTES + self._num_rows * self.dim * 2

    def append(self, rows: Rows) -> None:
        """Add rows; they are on the disk when this returns. Raises OSError where the disk takes no more."""
        columns = [
            pa.Array.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(rows.fingerprint_R.tobytes())]),
            pa.array(rows.squared_norm_R, pa.float32()),
            pa.array(rows.loss_R, pa.float32()),
            pa.array(rows.num_tokens_R, pa.int32()),
            pa.array(crcs(rows), pa.uint32()),
        ]
        message = pa.record_batch(columns, schema=_SCHEMA).serialize().to_pybytes()
        _write_at(self._matrix_file, self._offset, np.ascontiguousarray(rows.sketch_RD, "<f2").data.cast("B"))
        os.fsync(self._matrix_file.fileno())
        written = _write_at(self._index_file, self._index_bytes, message)
        os.fsync(self._index_file.fileno())
        self._index_bytes += written
        self._num_rows += len(rows)
        self._write_header()

    def close(self) -> None:
        """Let go of the shard."""
        self._matrix_file.close()
        super().close()

    def _write_header(self) -> None:
        """Say how many rows there are, for whoever opens the matrix with numpy; the index alone counts for us."""
        _write_at(self._matrix_file, 0, _header(self._num_rows, self.dim))


def matrix_path(index_path: Path) -> Path:
    """Return the path of a shard's sketches."""
    return index_path.with_suffix(".npy")


def shard_paths(folder: Path) -> list[Path]:
    """Return the indices of a folder's shards, oldest first."""
    return sorted(folder.glob("[0-9]*.arrows"))


def remove_shard(index_path: Path) -> bool:
    """Remove a shard that nobody holds; say whether it is gone."""
    try:
        with index_path.open("r+b", buffering=0) as file:
            if not (_locked(file, fcntl.LOCK_EX) and _still_there(file, index_path)):
                return False
            matrix_path(index_path).unlink(missing_ok=True)
            index_path.unlink()
    except FileNotFoundError:
        return True
    return True


def _locked(file: IO[bytes], how: int) -> bool:
    """Take a lock if it is free. Raises OSError where the file system has none."""
    try:
        fcntl.flock(file.fileno(), how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _still_there(file: IO[bytes], path: Path) -> bool:
    """Whether the path still names this file, which may have been removed before it was locked."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(file.fileno())
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _rows_in(path: Path, dim: int) -> int:
    """Return how many whole sketches a matrix has room for."""
    try:
        return max(0, path.stat().st_size - _HEADER_BYTES) // (2 * dim)
    except FileNotFoundError:
        return 0


def _read_index(file: IO[bytes], most: int) -> Index:
    """Read the batches of an index that are whole and whose sketches are there."""
    file.seek(0)
    data = pa.py_buffer(file.read())
    batches: list[Any] = []
    sound, rows = 0, 0
    for batch, end in _batches(data):
        if rows + len(batch) > most:
            break
        batches.append(batch)
        sound, rows = end, rows + len(batch)
    table = pa.Table.from_batches(batches, _SCHEMA)
    names = table["fingerprint"].combine_chunks()

    def column(name: str, dtype: str) -> npt.NDArray[Any]:
        return table[name].to_numpy().astype(dtype)

    return Index(
        fingerprint_R=np.frombuffer(names.buffers()[1], FINGERPRINT, rows) if rows else np.empty(0, FINGERPRINT),
        squared_norm_R=column("squared_norm", "f4"),
        loss_R=column("loss", "f4"),
        num_tokens_R=column("num_tokens", "i4"),
        crc_R=column("crc", "u4"),
        num_bytes=sound,
    )


def _batches(data: Any) -> Iterator[tuple[Any, int]]:
    """Yield batches with the byte at which each ends, as far as the stream is sound."""
    source = pa.BufferReader(data)
    try:
        reader = pa.ipc.open_stream(source)
        if reader.schema != _SCHEMA:
            return
        while True:
            batch = reader.read_next_batch()
            batch.validate(full=True)
            yield batch, source.tell()
    except (StopIteration, pa.ArrowInvalid, OSError):
        return


def _header(rows: int, dim: int) -> bytes:
    """Return a .npy header of fixed size."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f2", "fortran_order": False, "shape": (rows, dim)})
    raw = buffer.getvalue()
    assert len(raw) == _HEADER_BYTES, f"a .npy header of {len(raw)} bytes"
    return raw


def _write_at(file: IO[bytes], offset: int, data: bytes | memoryview) -> int:
    """Write all of `data` at an offset; return its size."""
    view = memoryview(data)
    at = offset
    while len(view):
        count = os.pwrite(file.fileno(), view, at)
        view, at = view[count:], at + count
    return at - offset
