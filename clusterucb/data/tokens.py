"""The tokenised pool: written once as a stream, then memory-mapped.

Invariants: sample i is the reader's row i, usable or not; the same rows, tokenizer and settings give the same bytes;
a folder under its final name is complete, for it is written as `<name>.partial` and renamed. A sample that cannot be
used is a `Failure`, keeps its position, and is False in `usable_N`.
"""

# pyarrow is typed only in part: what it leaves unknown is not ours to declare.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clusterucb.data.chat import ChatEncoder, Encoded
from clusterucb.data.rows import Row, Skipped
from clusterucb.data.texts import Texts
from clusterucb.data.token_files import FORMAT, TokenWriter, mapped, read_meta, read_table
from clusterucb.errors import DataError
from clusterucb.types import Failure, IntArray, Reason, TokenBatch


class RowSource(Protocol):
    """Rows to tokenise: a reader, or several side by side."""

    skipped: list[Skipped]

    @property
    def name(self) -> str:
        """Where they come from, for messages."""
        ...

    @property
    def skips_bad(self) -> bool:
        """Whether a row that a template refuses fails alone, instead of everything."""
        ...

    def __iter__(self) -> Iterator[Row]: ...

    def fingerprint(self) -> str:
        """Hash what is read."""
        ...


class TokenStore:
    """The tokenised pool in memory-mapped arrays; pickles as its folder's name, so that it travels cheaply."""

    def __init__(self, folder: Path) -> None:
        meta = read_meta(folder)
        self.folder = folder
        self.fingerprint, self.tokenizer_identity, self.config = meta.fingerprint, meta.tokenizer, meta.settings
        self.num_samples, self.num_tokens, self.num_labels = meta.num_samples, meta.num_tokens, meta.num_labels
        self.num_truncated, self.num_skipped, self.notes = meta.num_truncated, meta.num_skipped, meta.notes
        self._tokens = mapped(folder / "tokens.i32", "<i4", meta.num_tokens)
        self._labels = mapped(folder / "labels.u8", "u1", meta.num_tokens)
        self.offsets = mapped(folder / "offsets.i64", "<i8", meta.num_samples + 1)
        rows = read_table(folder, meta)
        self.lengths_N: IntArray = np.diff(self.offsets)
        self.label_counts_N: IntArray = rows["num_labels"].to_numpy().astype(np.int64)
        self.truncated_N: npt.NDArray[np.bool_] = rows["truncated"].to_numpy()
        self.ids, self.sources, self.subtasks = (
            Texts(rows[name].combine_chunks()) for name in ("id", "source", "subtask")
        )
        self.failures = _failures(rows)
        self.usable_N: npt.NDArray[np.bool_] = np.ones(meta.num_samples, np.bool_)
        self.usable_N[[failure.sample for failure in self.failures]] = False

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """Open a finished store. Raises RunFolderError where it is missing, damaged or of another version."""
        return cls(folder)

    def __len__(self) -> int:
        return self.num_samples

    def __reduce__(self) -> tuple[type["TokenStore"], tuple[Path]]:
        return TokenStore, (self.folder,)

    def batch(self, samples: npt.ArrayLike) -> TokenBatch:
        """Return these samples laid end to end, in this order, copied out of the files."""
        samples_B = np.asarray(samples, np.int64).reshape(-1)
        assert samples_B.min(initial=0) >= 0, f"negative sample {samples_B.min()}"
        starts_B, stops_B = self.offsets[samples_B], self.offsets[samples_B + 1]
        offsets = np.zeros(len(samples_B) + 1, np.int64)
        np.cumsum(stops_B - starts_B, out=offsets[1:])
        tokens_T = np.empty(int(offsets[-1]), np.int32)
        labels_T = np.empty(int(offsets[-1]), np.bool_)
        for i, (start, stop) in enumerate(zip(starts_B.tolist(), stops_B.tolist(), strict=True)):
            part = slice(int(offsets[i]), int(offsets[i + 1]))
            tokens_T[part] = self._tokens[start:stop]
            labels_T[part] = self._labels[start:stop]
        return TokenBatch(samples_B, tokens_T, labels_T, offsets)

    def skipped(self) -> Iterator[Skipped]:
        """Yield the rows that were left out of the pool, and why."""
        with (self.folder / "skipped.jsonl").open(encoding="utf-8") as file:
            for line in file:
                yield Skipped(**json.loads(line))


def pool_fingerprint(reader: RowSource, encoder: ChatEncoder) -> str:
    """Name what a store of these rows and this encoder would hold: a store that bears this name need not be rebuilt."""
    parts = f"{FORMAT} {reader.fingerprint()} {encoder.identity}"
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def tokenise(
    reader: RowSource,
    encoder: ChatEncoder,
    folder: Path,
    fingerprint: str,
    progress: Callable[[int], None] | None = None,
) -> TokenStore:
    """Encode every row into `folder`, telling `progress` the rows done so far; replaces what stands there.

    Raises DataError where a template refuses a row (with `on_bad_row: skip` the row fails instead, and keeps its
    position) and where no row can be used.
    """
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    with TokenWriter(partial) as writer:
        for row in reader:
            encoded, failure = _encode(row, encoder, reader.skips_bad)
            writer.add(row, encoded, *failure)
            if progress is not None and writer.num_samples % 256 == 0:
                progress(writer.num_samples)
        writer.finish(reader.skipped, encoder, fingerprint)
    if progress is not None:
        progress(writer.num_samples)
    if not writer.num_usable:
        raise DataError(
            f"no sample of {reader.name} can be used: all {writer.num_samples} have no label tokens within "
            f"tokens.max_length ({encoder.config.max_length}) or are too long: raise it, or change tokens.truncation "
            f"({encoder.config.truncation})"
        )
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return TokenStore.open(folder)


def _encode(row: Row, encoder: ChatEncoder, skips_bad: bool) -> tuple[Encoded, tuple[str, str]]:
    """Return the encoded row and, where it cannot be used, the reason and a detail."""
    try:
        encoded = encoder.encode(row.messages)
    except DataError as error:
        if not skips_bad:
            raise DataError(f"{row.location}: {error}; on_bad_row: skip leaves such rows out") from error
        nothing = Encoded(np.empty(0, np.int32), np.empty(0, np.bool_), truncated=False, num_tokens_full=0)
        return nothing, ("no_label_tokens", str(error))
    if encoded.excluded:
        return encoded, ("too_long", f"{encoded.num_tokens_full} tokens")
    if not encoded.labels.any():
        return encoded, ("no_label_tokens", f"{encoded.num_tokens_full} tokens before truncation")
    return encoded, ("", "")


def _failures(rows: Any) -> tuple[Failure, ...]:
    reasons: list[str] = rows["failure"].to_numpy()
    failed = np.flatnonzero(np.asarray(reasons, dtype=object) != "")
    details = rows["detail"].take(pa.array(failed)).to_pylist()
    return tuple(Failure(int(i), cast("Reason", reasons[i]), detail) for i, detail in zip(failed, details, strict=True))
