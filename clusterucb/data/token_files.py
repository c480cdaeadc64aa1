"""The files of a tokenised pool: how they are written, and how they are opened.

`tokens.i32`, `labels.u8` and `offsets.i64` are raw little-endian arrays with the samples laid end to end;
`rows.parquet` has one row a sample, `skipped.jsonl` the rows left out, `meta.json` what the whole is.
Invariant: the same samples give the same bytes; no clock and no host name is written, and a path only in a location.
"""

# pyarrow is typed only in part: what it leaves unknown is not ours to declare.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from clusterucb.config import Tokens
from clusterucb.data.chat import ChatEncoder, Encoded
from clusterucb.data.rows import Row, Skipped
from clusterucb.errors import RunFolderError

FORMAT = 1
_ROWS_AT_A_TIME = 8192
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("subtask", pa.string()),
        ("num_tokens", pa.int32()),
        ("num_labels", pa.int32()),
        ("truncated", pa.bool_()),
        ("failure", pa.string()),
        ("detail", pa.string()),
    ]
)


class Meta(BaseModel):
    """What a finished folder holds; `fingerprint` names rows, tokenizer and settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    fingerprint: str
    tokenizer: str
    settings: Tokens
    num_samples: int
    num_tokens: int
    num_labels: int
    num_usable: int
    num_truncated: int
    num_skipped: int
    notes: tuple[str, ...]


class TokenWriter:
    """Append samples to the files of a store; nothing but a few thousand rows of names is held."""

    def __init__(self, folder: Path) -> None:
        self.num_samples = self.num_usable = 0
        self._num_tokens = self._num_labels = self._num_truncated = 0
        self._folder = folder
        self._tokens = (folder / "tokens.i32").open("wb")
        self._labels = (folder / "labels.u8").open("wb")
        self._offsets = (folder / "offsets.i64").open("wb")
        self._rows = pq.ParquetWriter(folder / "rows.parquet", _SCHEMA)
        self._columns: list[list[Any]] = [[] for _ in _SCHEMA]
        _write(self._offsets, np.zeros(1, "<i8"))

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._tokens, self._labels, self._offsets, self._rows):
            file.close()

    def add(self, row: Row, encoded: Encoded, failure: str, detail: str) -> None:
        """Append one sample."""
        num_labels = int(encoded.labels.sum())
        self.num_samples += 1
        self.num_usable += not failure
        self._num_tokens += len(encoded.tokens)
        self._num_labels += num_labels
        self._num_truncated += encoded.truncated
        _write(self._tokens, encoded.tokens.astype("<i4", copy=False))
        _write(self._labels, encoded.labels.view(np.uint8))
        _write(self._offsets, np.asarray([self._num_tokens], "<i8"))
        values = (row.id, row.source, row.subtask, len(encoded.tokens), num_labels, encoded.truncated, failure, detail)
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        if len(self._columns[0]) == _ROWS_AT_A_TIME:
            self._flush_rows()

    def finish(self, skipped: Sequence[Skipped], encoder: ChatEncoder, fingerprint: str) -> None:
        """Write what is known only at the end, and make everything durable."""
        self._flush_rows()
        with (self._folder / "skipped.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(item)) + "\n" for item in skipped)
        meta = Meta(
            format=FORMAT,
            fingerprint=fingerprint,
            tokenizer=encoder.identity,
            settings=encoder.config,
            num_samples=self.num_samples,
            num_tokens=self._num_tokens,
            num_labels=self._num_labels,
            num_usable=self.num_usable,
            num_truncated=self._num_truncated,
            num_skipped=len(skipped),
            notes=encoder.notes,
        )
        (self._folder / "meta.json").write_text(meta.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for file in (self._tokens, self._labels, self._offsets):
            file.flush()
            os.fsync(file.fileno())

    def _flush_rows(self) -> None:
        if self._columns[0]:
            arrays = [pa.array(column, kind) for column, kind in zip(self._columns, _SCHEMA.types, strict=True)]
            self._rows.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA))
            self._columns = [[] for _ in _SCHEMA]


def _write(file: IO[bytes], array: npt.NDArray[Any]) -> None:
    file.write(np.ascontiguousarray(array).data)


def read_meta(folder: Path) -> Meta:
    """Return what a finished folder holds. Raises RunFolderError where it is missing, damaged or of another version."""
    try:
        meta = Meta.model_validate_json((folder / "meta.json").read_bytes())
    except OSError as error:
        raise RunFolderError(f"{folder} holds no tokenised pool ({error.strerror}): tokenise the pool again") from error
    except ValidationError as error:
        raise RunFolderError(f"{folder}/meta.json is damaged: remove the folder and tokenise the pool again") from error
    if meta.format != FORMAT:
        raise RunFolderError(f"{folder} has format {meta.format}, not {FORMAT}: tokenise the pool again")
    return meta


def read_table(folder: Path, meta: Meta) -> Any:
    """Return `rows.parquet` as an Arrow table."""
    try:
        table = pq.read_table(folder / "rows.parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise RunFolderError(f"{folder}/rows.parquet is damaged ({error}): tokenise the pool again") from error
    if len(table) != meta.num_samples or table.schema.names != _SCHEMA.names:
        raise RunFolderError(f"{folder}/rows.parquet does not belong to its meta.json: tokenise the pool again")
    return table


def mapped(path: Path, dtype: str, count: int) -> npt.NDArray[Any]:
    """Map a raw array of `count` entries; nothing is read yet."""
    size = path.stat().st_size if path.exists() else -1
    if size != count * np.dtype(dtype).itemsize:
        raise RunFolderError(f"{path} has {size} bytes where {count} entries belong: tokenise the pool again")
    return np.asarray(np.memmap(path, dtype, "r", shape=(count,))) if count else np.empty(0, dtype)
