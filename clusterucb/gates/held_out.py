"""Which rows share a sequence of words with a held-out set.

Invariant: held-out rows are looked up, never sampled: a pool row that shares enough sequences is always found. What
cannot be checked (rows too short to tell from coincidence, sequences that are the set's own prompt) is counted, and
said.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from clusterucb.config import HeldOut, HeldOutRows
from clusterucb.data.messages import kind, parse_messages, text
from clusterucb.data.row_paths import open_rows
from clusterucb.errors import DataError
from clusterucb.gates.words import Hashes, WordBlock, WordHasher, sequences
from clusterucb.types import IntArray

_ROWS_AT_A_TIME = 1024


@dataclass(frozen=True, slots=True)
class Match:
    """A pool row and a held-out row that share `shared` sequences (with the set: of all its rows), and one of them."""

    row: int
    partner: str
    shared: int
    words: str


class HeldOutSet:
    """The sequences of one set, of every length that occurs."""

    def __init__(self, rows: HeldOutRows, settings: HeldOut, hasher: WordHasher) -> None:
        self.path = rows.path
        self.too_short = 0
        self.num_rows = 0
        self._settings = settings
        self._names: list[str] = []
        found: dict[int, list[tuple[Hashes, IntArray]]] = {}
        for names, block in _blocks(rows, hasher):
            for length, hashes, row_of in self._sequences(block):
                found.setdefault(length, []).append((hashes, row_of))
            self._names += names
        self.num_rows = len(self._names)
        if not self.num_rows:
            raise DataError(f"{rows.path} holds no row: remove it from gates.held_out.sets, or correct the path")
        self.num_common = 0
        self._index = {length: self._indexed(parts) for length, parts in sorted(found.items())}

    def _sequences(self, block: WordBlock) -> Iterator[tuple[int, Hashes, IntArray]]:
        """Yield the sequences of a block by length, with the row of each."""
        sizes, first, length = np.diff(block.offsets), len(self._names), self._settings.words
        long = sequences(block, length, whole_if_shorter=False)
        yield length, long.hashes_G, first + np.repeat(np.arange(len(sizes)), np.diff(long.offsets))
        self.too_short += int((sizes < min(self._settings.least_words, length)).sum())
        for size in np.unique(sizes[(sizes < length) & (sizes >= self._settings.least_words)]).tolist():
            whole = sequences(block, size, whole_if_shorter=False)
            rows = np.repeat(np.arange(len(sizes)), np.diff(whole.offsets))
            yield size, whole.hashes_G[sizes[rows] == size], first + rows[sizes[rows] == size]

    def _indexed(self, parts: list[tuple[Hashes, IntArray]]) -> tuple[Hashes, IntArray]:
        """Return the sequences that count, ascending, and the first row that holds each."""
        hashes = np.concatenate([hashes for hashes, _ in parts])
        rows = np.concatenate([rows for _, rows in parts])
        order = np.lexsort((rows, hashes))
        hashes, rows = hashes[order], rows[order]
        once = np.ones(len(hashes), np.bool_)
        once[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])
        distinct, first, count = np.unique(hashes[once], return_index=True, return_counts=True)
        rows = rows[once][first]
        if self._settings.common is not None:
            rare = count <= self._settings.common
            self.num_common += int((~rare).sum())
            distinct, rows = distinct[rare], rows[rare]
        return distinct, rows

    def matches(self, block: WordBlock, first_row: int) -> Iterator[Match]:
        """Yield a match for every row of the block that shares enough, in order."""
        shared_B = np.zeros(len(block.offsets) - 1, np.int64)
        best: dict[int, tuple[int, int, int]] = {}  # row -> place in the block, length, held-out row
        for length, (known, holders) in self._index.items():
            here = sequences(block, length, whole_if_shorter=False)
            if not len(known) or not len(here.hashes_G):
                continue
            at = np.minimum(np.searchsorted(known, here.hashes_G), len(known) - 1)
            hit = np.flatnonzero(known[at] == here.hashes_G)
            rows = np.searchsorted(here.offsets, hit, side="right") - 1
            pairs = np.unique(np.stack([rows, at[hit]]), axis=1)
            shared_B += np.bincount(pairs[0], minlength=len(shared_B))
            for row, place in zip(rows.tolist(), hit.tolist(), strict=True):
                best.setdefault(row, (int(here.starts_G[place]), length, int(holders[at[place]])))
        for row in np.flatnonzero(shared_B >= self._settings.shared).tolist():
            start, length, holder = best[row]
            words = " ".join(block.words[start : start + length])
            yield Match(first_row + row, self._names[holder], int(shared_B[row]), words)

    def notes(self) -> Iterator[str]:
        """Say what is not checked."""
        if self.too_short:
            yield (
                f"gates: {self.too_short} of {self.num_rows} rows of {self.path} have fewer than "
                f"{self._settings.least_words} words and are not checked"
            )
        if self.num_common:
            yield (
                f"gates: {self.num_common} word sequences stand in more than {self._settings.common} rows of "
                f"{self.path} and do not count"
            )


def held_out_fingerprint(settings: HeldOut) -> str:
    """Name what the sets hold."""
    files = [(file.stem, file.digest()) for rows in settings.sets for file in open_rows(rows)]
    return hashlib.blake2b(json.dumps(files).encode(), digest_size=16).hexdigest()


def _blocks(rows: HeldOutRows, hasher: WordHasher) -> Iterator[tuple[list[str], WordBlock]]:
    names, texts, met = list[str](), list[str](), 0
    for file in open_rows(rows):
        for found in file.scan():
            if rows.limit is not None and met >= rows.limit:
                break
            try:
                if found.problem:
                    raise DataError(f"it {found.problem}")
                name, content = _row(found.value, rows)
            except DataError as error:
                if rows.on_bad_row == "error":
                    raise DataError(
                        f"{file.name}, {file.unit} {found.number}: {error}; on_bad_row: skip leaves such rows out"
                    ) from None
                continue
            names.append(name or f"{file.unit} {found.number}")
            texts.append(content)
            met += 1
            if len(texts) == _ROWS_AT_A_TIME:
                yield names, hasher.block(texts)
                names, texts = [], []
    if texts:
        yield names, hasher.block(texts)


def _row(value: object, rows: HeldOutRows) -> tuple[str, str]:
    """Return the id, where there is one, and the text of a held-out row."""
    if not isinstance(value, Mapping):
        raise DataError(f"the row is {kind(value)}: give an object")
    fields = cast("Mapping[str, Any]", value)
    given = fields.get(rows.id_field)
    name = str(given) if isinstance(given, str | int) and not isinstance(given, bool) else ""
    if rows.text_fields is None:
        return name, "\n".join(message.content for message in parse_messages(fields, answered=False))
    parts: list[str] = []
    for field in rows.text_fields:
        if field not in fields:
            raise DataError(f"text_fields names {field!r}, which the row has not (it has {', '.join(fields)})")
        value_of = fields[field]
        many = cast("list[object]", value_of) if isinstance(value_of, list) else [value_of]
        parts += [text(one, field) for one in many]
    return name, "\n".join(parts)
