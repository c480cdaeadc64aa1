"""An append-only file of checked records: what was computed is on disk before it counts.

Each record is a safetensors blob (named arrays plus text metadata) behind its length and CRC-32. A torn last record,
as a crash leaves it, is cut off when the file is opened for appending; damage anywhere else is an error, because
silently dropping results would change a run.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from clusterucb.errors import RunFolderError

_MAGIC = b"CUCBJ1\n"
_FRAME = struct.Struct("<II")
_METADATA_KEY = "__metadata__"


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """Named arrays and text fields of one entry."""

    fields: Mapping[str, str]
    arrays: Mapping[str, npt.NDArray[Any]]


def _encode(record: Record) -> bytes:
    arrays = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    blob = save_arrays(arrays, metadata=dict(record.fields))
    return _FRAME.pack(len(blob), zlib.crc32(blob)) + blob


def _decode(blob: bytes) -> Record:
    header_size = int.from_bytes(blob[:8], "little")

    header = json.loads(blob[8 : 8 + header_size])
    return Record(fields=header.get(_METADATA_KEY, {}), arrays=load_arrays(blob))


def _scan(path: Path) -> tuple[list[tuple[int, int]], int]:
    """Return (offset, length) of every whole record and the size of the sound part of the file."""
    size = path.stat().st_size
    spans: list[tuple[int, int]] = []
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            if size <= len(_MAGIC):
                return [], 0
            raise RunFolderError(f"{path} is not a journal of this program: use another run folder")
        sound = len(_MAGIC)
        while sound < size:
            frame = file.read(_FRAME.size)
            if len(frame) < _FRAME.size:
                break
            length, crc = _FRAME.unpack(frame)
            blob = file.read(length)
            torn = len(blob) < length or (sound + _FRAME.size + length == size and zlib.crc32(blob) != crc)
            if torn:
                break
            if zlib.crc32(blob) != crc:
                raise RunFolderError(
                    f"{path} is damaged at byte {sound} (record {len(spans)}): restore it from a backup, "
                    f"or delete it to compute everything again"
                )
            spans.append((sound + _FRAME.size, length))
            sound += _FRAME.size + length
    return spans, sound


def check_journal(path: Path) -> None:
    """Raise RunFolderError for a journal that is damaged anywhere but in a torn last record; none is sound."""
    if path.exists():
        _scan(path)


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a journal without touching it; a torn last record is left out."""
    spans, _ = _scan(path)
    with path.open("rb") as file:
        for offset, length in spans:
            file.seek(offset)
            try:
                yield _decode(file.read(length))
            except (SafetensorError, ValueError) as error:
                raise RunFolderError(f"{path} holds an unreadable record at byte {offset}: {error}") from None


class Journal:
    """Read what is there, then append. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_records = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            spans, sound = _scan(path)
            self.num_records = len(spans)
            if sound < path.stat().st_size:
                with path.open("r+b") as file:
                    file.truncate(sound)
                    os.fsync(file.fileno())
        self._file = path.open("ab", buffering=0)
        if self._file.tell() == 0:
            self._write(_MAGIC)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def records(self) -> Iterator[Record]:
        """Yield every record in the order written."""
        return read_records(self.path)

    def append(self, record: Record) -> None:
        """Write a record and wait until it is on the disk."""
        self._write(_encode(record))
        self.num_records += 1

    def close(self) -> None:
        """Close the file; what was appended is already on the disk."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        os.fsync(self._file.fileno())
