"""An append-only file of checked records: what was computed is on disk before it counts.

A record is a safetensors blob (named arrays plus text metadata) behind its length. Records appended together are one
group, behind a mark, its length and a CRC-32: it is on disk as a whole or not at all. A bad end, as a crash leaves it,
is cut off when the file is opened for appending. Damage with a sound group behind it is an error, because silently
dropping results would change a run.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from clusterucb.errors import RunFolderError
from clusterucb.run.disk import write_all, writing
from clusterucb.run.replica import NO_REPLICA, Replica

_MAGIC = b"CUCBJ2\n"
_MARK = b"\xc2group\n\x00"
_HEAD = struct.Struct(f"<{len(_MARK)}sII")
_LENGTH = struct.Struct("<I")
_METADATA_KEY = "__metadata__"


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """Named arrays and text fields of one entry."""

    fields: Mapping[str, str]
    arrays: Mapping[str, npt.NDArray[Any]]


def _encode(record: Record) -> bytes:
    arrays = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    blob = save_arrays(arrays, metadata=dict(record.fields))
    return _LENGTH.pack(len(blob)) + blob


def _decode(blob: bytes) -> Record:
    header_size = int.from_bytes(blob[:8], "little")

    header = json.loads(blob[8 : 8 + header_size])
    return Record(fields=header.get(_METADATA_KEY, {}), arrays=load_arrays(blob))


def _group(records: tuple[Record, ...]) -> bytes:
    payload = b"".join(map(_encode, records))
    return _HEAD.pack(_MARK, len(payload), zlib.crc32(payload)) + payload


def _payload(file: IO[bytes]) -> bytes | None:
    """Read the group that begins here; None where there is no sound one."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    mark, length, crc = _HEAD.unpack(head)
    payload = file.read(length) if mark == _MARK else b""
    return payload if payload and len(payload) == length and zlib.crc32(payload) == crc else None


def _sound_group_after(file: IO[bytes], offset: int) -> bool:
    """Whether any sound group begins behind `offset`."""
    file.seek(offset + 1)
    rest = file.read()
    at = rest.find(_MARK)
    while at >= 0:
        file.seek(offset + 1 + at)
        if _payload(file) is not None:
            return True
        at = rest.find(_MARK, at + 1)
    return False


def _scan(path: Path) -> tuple[list[tuple[int, int]], int]:
    """Return (offset, length) of every record and the size of the sound part of the file."""
    size = path.stat().st_size
    spans: list[tuple[int, int]] = []
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
        if magic != _MAGIC:
            if _MAGIC.startswith(magic):
                return [], 0
            raise RunFolderError(f"{path} is not a journal of this program: use another run folder")
        sound = len(_MAGIC)
        while sound < size:
            payload = _payload(file)
            if payload is None:
                if _sound_group_after(file, sound):
                    raise RunFolderError(
                        f"{path} is damaged at byte {sound} (record {len(spans)}): restore it from a backup, "
                        f"or delete it to compute everything again"
                    )
                break
            start, at = sound + _HEAD.size, 0
            while at < len(payload):
                (length,) = _LENGTH.unpack_from(payload, at)
                spans.append((start + at + _LENGTH.size, length))
                at += _LENGTH.size + length
            sound = start + at
    return spans, sound


def check_journal(path: Path) -> None:
    """Raise RunFolderError for a journal that is damaged anywhere but at its end; none is sound."""
    if path.exists():
        _scan(path)


def read_records(path: Path) -> Iterator[Record]:
    """Yield the records of a journal without touching it; a bad end is left out."""
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

    def __init__(self, path: Path, replica: Replica = NO_REPLICA) -> None:
        self.path = path
        self.num_records = 0
        self._replica = replica
        self._size = 0
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
            self._repair()
        if self._size == 0:
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

    def append(self, *records: Record) -> None:
        """Write records as one group and wait until they are on the disk."""
        if records:
            self._write(_group(records))
            self.num_records += len(records)

    def close(self) -> None:
        """Close the file; what was appended is already on the disk."""
        self._file.close()

    def _repair(self) -> None:
        """Count what is there and cut off a bad end."""
        spans, self._size = _scan(self.path)
        self.num_records = len(spans)
        if self._size < self.path.stat().st_size:
            self._file.truncate(self._size)
            os.fsync(self._file.fileno())
            self._replica.cut(self.path, self._size)

    def _write(self, data: bytes) -> None:
        with writing(self.path):
            write_all(self._file.fileno(), data)
            os.fsync(self._file.fileno())
        self._replica.append(self.path, self._size, data)
        self._size += len(data)
