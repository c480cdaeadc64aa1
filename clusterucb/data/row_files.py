"""Files that hold rows: walk through them once, and find any row again by its key.

Invariant: no file is held in memory. A key is a byte offset (JSON lines) or a row number (the rest), so that a row
comes back untouched however large the file. `.jsonl.gz` has the same keys in the unpacked stream: going back to a row
unpacks the file from its start, once for every batch of keys. A `.json` list is the exception: it is parsed whole
each time it is read, so large pools belong in JSON lines or Parquet.
"""

# pyarrow and datasets are typed only in part: what they leave unknown is not ours to declare.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import gzip
import hashlib
import json
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from clusterucb.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Found:
    """A row met on the way through a file: its key, its 1-based number, and its value or what is wrong with it."""

    key: int
    number: int
    value: object
    problem: str = ""


class RowFile(Protocol):
    """One file (or dataset) of rows."""

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    @property
    def stem(self) -> str:
        """Source of rows that name none."""
        ...

    @property
    def unit(self) -> Literal["line", "row"]:
        """What `Found.number` counts."""
        ...

    def scan(self) -> Iterator[Found]:
        """Walk through all rows in order."""
        ...

    def read(self, keys: Sequence[int]) -> Iterator[object]:
        """Give back the rows with these keys, which must ascend."""
        ...

    def digest(self) -> str:
        """Hash of the content."""
        ...


@dataclass(frozen=True, slots=True)
class _File:
    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def stem(self) -> str:
        return self.path.name.split(".")[0] or self.path.name

    @property
    def unit(self) -> Literal["line", "row"]:
        return "row"

    def digest(self) -> str:
        with _reading(self.path), self.path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class JsonLines(_File):
    """One JSON value a line, plain or gzipped; blank lines are passed over."""

    @property
    def unit(self) -> Literal["line", "row"]:
        """Count lines, blank ones included, as an editor does."""
        return "line"

    def scan(self) -> Iterator[Found]:
        """Walk through the lines; a line that cannot be parsed is a problem, not the end."""
        key = 0
        with _reading(self.path), self._open() as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    value, problem = _parse(line, "utf-8-sig" if number == 1 else "utf-8")
                    yield Found(key, number, value, problem)
                key += len(line)

    def read(self, keys: Sequence[int]) -> Iterator[object]:
        """Give back the values at these byte offsets."""
        with _reading(self.path), self._open() as file:
            for key in keys:
                file.seek(key)
                value, problem = _parse(file.readline(), "utf-8-sig" if key == 0 else "utf-8")
                if problem:
                    raise DataError(f"{self.path} changed while it was in use (byte {key} {problem}): start again")
                yield value

    def _open(self) -> IO[bytes]:
        with self.path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        return cast("IO[bytes]", gzip.open(self.path)) if packed else self.path.open("rb")


@dataclass(frozen=True, slots=True)
class JsonList(_File):
    """A `.json` file with one list of rows."""

    def scan(self) -> Iterator[Found]:
        """Walk through the list."""
        for i, value in enumerate(self._load()):
            yield Found(i, i + 1, value)

    def read(self, keys: Sequence[int]) -> Iterator[object]:
        """Give back the items at these places."""
        rows = self._load()
        return (rows[key] for key in keys)

    def _load(self) -> list[object]:
        with _reading(self.path):
            value, problem = _parse(self.path.read_bytes(), "utf-8-sig")
        if problem or not isinstance(value, list):
            raise DataError(f"{self.path} {problem or 'is not a list of rows'}: repair it, or write one row a line")
        return cast("list[object]", value)


@dataclass(frozen=True, slots=True)
class ParquetRows(_File):
    """A Parquet file, read a few rows at a time even where its row groups are large."""

    def scan(self) -> Iterator[Found]:
        """Walk through the rows."""
        i = 0
        with _reading(self.path), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for value in batch.to_pylist():
                    yield Found(i, i + 1, value)
                    i += 1

    def read(self, keys: Sequence[int]) -> Iterator[object]:
        """Give back the rows with these numbers, reading only the row groups that hold them."""
        with _reading(self.path), pq.ParquetFile(self.path) as file:
            start, waiting = 0, list(keys)
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                wanted = [key for key in waiting if key < stop]
                waiting = waiting[len(wanted) :]
                if wanted:
                    yield from self._read_group(file, group, [key - start for key in wanted])
                start = stop

    def _read_group(self, file: pq.ParquetFile, group: int, keys: list[int]) -> Iterator[object]:
        start = 0
        for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=[group]):
            wanted = [key - start for key in keys if key < start + batch.num_rows]
            yield from batch.take(pa.array(wanted, pa.int64())).to_pylist()
            keys, start = keys[len(wanted) :], start + batch.num_rows
            if not keys:
                return


class DatasetRows:
    """A Hugging Face dataset: rows come straight from its memory-mapped Arrow table, undecoded."""

    def __init__(self, name: str, stem: str, dataset: "Dataset") -> None:
        self.name = name
        self.stem = stem
        self.unit: Literal["line", "row"] = "row"
        self._dataset = dataset.with_format("arrow")

    def scan(self) -> Iterator[Found]:
        """Walk through the rows."""
        for start, table in self._tables():
            for i, value in enumerate(table.to_pylist(), start=start):
                yield Found(i, i + 1, value)

    def read(self, keys: Sequence[int]) -> Iterator[object]:
        """Give back the rows with these numbers."""
        for start in range(0, len(keys), BATCH_ROWS):
            table: Any = self._dataset[list(keys[start : start + BATCH_ROWS])]
            yield from table.to_pylist()

    def digest(self) -> str:
        """Hash schema and rows, not files: the same rows saved in other shards are the same dataset."""
        digest = hashlib.blake2b(str(self._dataset.features).encode(), digest_size=16)
        for _, table in self._tables():
            for batch in table.combine_chunks().to_batches():
                digest.update(batch.serialize())
        return digest.hexdigest()

    def _tables(self) -> Iterator[tuple[int, Any]]:
        for start in range(0, len(self._dataset), BATCH_ROWS):
            yield start, self._dataset[start : start + BATCH_ROWS]


def _parse(line: bytes, encoding: str) -> tuple[object, str]:
    """Return the JSON value of a line, or what is wrong with it."""
    try:
        return json.loads(line.decode(encoding)), ""
    except UnicodeDecodeError as error:
        return (
            None,
            f"is not UTF-8 (byte {error.start} of it is 0x{error.object[error.start]:02x}): convert the file to UTF-8",
        )
    except json.JSONDecodeError as error:
        return None, f"is not valid JSON ({error.msg} at column {error.colno})"
    except (ValueError, RecursionError) as error:
        return None, f"is JSON that cannot be read ({error})"


@contextmanager
def _reading(path: Path) -> Generator[None]:
    """Turn the failures of a damaged or unreadable file into a DataError that names it."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowInvalid) as error:
        raise DataError(f"{path} is damaged ({error}): write or download it again") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}): check the path and its permissions"
        ) from error
