"""Pool and target rows: a stream of chats, and the original rows untouched, by position.

Invariants: positions 0..N-1 count the usable rows in file order and mean the same row in every pass; ids are unique;
a row that cannot be used is an error that names file, line and field, or, with `on_bad_row: skip`, is recorded and has
no position. Nothing but an index (some 20 bytes a row) is held in memory, and the ids while a pass lasts.
"""

import hashlib
import itertools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from clusterucb.config import Rows, Target
from clusterucb.data.messages import Message, kind, parse_messages, text
from clusterucb.data.row_files import RowFile
from clusterucb.data.row_paths import open_rows
from clusterucb.errors import DataError
from clusterucb.types import FloatArray

_LOOKUP_ROWS = 16384  # rows looked up, and held, at a time
ALL = "all"


@dataclass(frozen=True, slots=True)
class Row:
    """One sample as the user gave it, reduced to what the method needs."""

    id: str
    source: str
    messages: tuple[Message, ...]
    subtask: str
    position: int
    location: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row left out, and why."""

    location: str
    reason: str


@dataclass(slots=True)
class _Index:
    """Where each position stands: file, key in it, and line or row number."""

    file: "array[int]" = field(default_factory=lambda: array("i"))
    key: "array[int]" = field(default_factory=lambda: array("q"))
    number: "array[int]" = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        return len(self.key)


def read_rows(config: Rows) -> "RowReader":
    """Open pool or target rows. Raises DataError where there is nothing at the path."""
    return RowReader(config, open_rows(config))


class RowReader:
    """Iterate over the rows as often as you like; `skipped` tells what the last complete pass left out."""

    def __init__(self, config: Rows, files: tuple[RowFile, ...]) -> None:
        self.config = config
        self.skipped: list[Skipped] = []
        self._files = files
        self._subtask_field = config.subtask_field if isinstance(config, Target) else None
        self._finished: _Index | None = None

    def __iter__(self) -> Iterator[Row]:
        """Yield the usable rows in order, `config.limit` of them at most."""
        index, skipped, names = _Index(), list[Skipped](), _Names(self.config, self._subtask_field)
        for number, file in enumerate(self._files):
            for found in file.scan():
                if self.config.limit is not None and len(index) >= self.config.limit:
                    break
                location = f"{file.name}, {file.unit} {found.number}"
                try:
                    if found.problem:
                        raise DataError(f"it {found.problem}")
                    row = names.row(found.value, file.stem, len(index), location, lambda i: self._locate(index, i))
                except DataError as error:
                    if self.config.on_bad_row == "error":
                        raise DataError(f"{location}: {error}; on_bad_row: skip leaves such rows out") from None
                    skipped.append(Skipped(location, str(error)))
                    continue
                index.file.append(number)
                index.key.append(found.key)
                index.number.append(found.number)
                yield row
        if not index:
            raise DataError(f"{self.config.path} holds no {'usable ' if skipped else ''}row{_first(skipped)}")
        names.check_spelling(self.config.path)
        self.skipped, self._finished = skipped, index

    @property
    def name(self) -> str:
        """Where the rows come from."""
        return self.config.path

    @property
    def skips_bad(self) -> bool:
        """Whether bad rows are left out."""
        return self.config.on_bad_row == "skip"

    def __len__(self) -> int:
        """Number of usable rows; needs a pass over the files unless one was made."""
        return len(self._index())

    def raw(self, positions: Iterable[int]) -> Iterator[dict[str, Any]]:
        """Yield the original rows at `positions`, in that order, as they stand in the file."""
        index, remaining = self._index(), iter(positions)
        while chunk := list(itertools.islice(remaining, _LOOKUP_ROWS)):
            order = sorted(set(chunk), key=lambda i: (index.file[i], index.key[i]))
            values: dict[int, dict[str, Any]] = {}
            for number, group in itertools.groupby(order, key=lambda i: index.file[i]):
                members = list(group)
                found = self._files[number].read([index.key[i] for i in members])
                values.update(zip(members, cast("Iterator[dict[str, Any]]", found), strict=True))
            yield from (values[i] for i in chunk)

    def messages(self, positions: Iterable[int]) -> Iterator[tuple[Message, ...]]:
        """Yield the chats at `positions`, in that order."""
        return map(parse_messages, self.raw(positions))

    def column(self, name: str) -> FloatArray:
        """Return a column of numbers as (N, F). Raises DataError naming the row where one is missing or odd."""
        index = self._index()
        column_NF: FloatArray | None = None
        for i, row in enumerate(self.raw(range(len(index)))):
            try:
                numbers_F = _numbers(row, name)
                if column_NF is None:
                    column_NF = np.empty((len(index), len(numbers_F)), np.float32)
                if len(numbers_F) != column_NF.shape[1]:
                    raise DataError(
                        f"{name} holds {len(numbers_F)} numbers where the first row holds {column_NF.shape[1]}: "
                        "give every row the same number"
                    )
            except DataError as error:
                raise DataError(f"{self._locate(index, i)}: {error}") from None
            column_NF[i] = numbers_F
        assert column_NF is not None
        return column_NF

    def location(self, position: int) -> str:
        """Say where a row stands: file and line."""
        return self._locate(self._index(), position)

    def fingerprint(self) -> str:
        """Hash what is read: the files' names and content and the settings that shape rows, not where they stand."""
        settings = self.config.model_dump(mode="json", exclude={"path", "format", "revision"})
        files = [(file.stem, file.digest()) for file in self._files]
        return hashlib.blake2b(json.dumps([settings, files], sort_keys=True).encode(), digest_size=16).hexdigest()

    def _index(self) -> _Index:
        if self._finished is None:
            for _ in self:
                pass
        assert self._finished is not None
        return self._finished

    def _locate(self, index: _Index, position: int) -> str:
        file = self._files[index.file[position]]
        return f"{file.name}, {file.unit} {index.number[position]}"


class _Names:
    """Ids, sources and subtasks of one pass: keeps ids unique and notices fields that no row has."""

    def __init__(self, config: Rows, subtask_field: str | None) -> None:
        self._config = config
        self._subtask_field = subtask_field
        self._first_fields: tuple[str, ...] = ()
        self._met: set[str] = set()
        self._position_of: dict[str, int] = {}
        self._copies: dict[str, int] = {}

    def row(self, value: object, stem: str, position: int, location: str, locate: Callable[[int], str]) -> Row:
        """Turn a value from a file into a Row."""
        if not isinstance(value, dict):
            raise DataError(f"the row is {kind(value)}: give an object with messages, or with prompt and completion")
        fields = cast("dict[str, Any]", value)
        self._first_fields = self._first_fields or tuple(fields)
        self._met.update({self._config.id_field, self._config.source_field} & fields.keys())
        messages = parse_messages(fields)
        source = _name(fields, self._config.source_field) if fields.get(self._config.source_field) is not None else stem
        subtask = ALL if self._subtask_field is None else self._subtask(fields, self._subtask_field)
        return Row(self._id(fields, messages, position, locate), source, messages, subtask, position, location)

    def check_spelling(self, path: str) -> None:
        """Refuse a field that was asked for and that no row has."""
        defaults = Rows.model_fields
        for setting, name in (("id_field", self._config.id_field), ("source_field", self._config.source_field)):
            if name not in self._met and name != defaults[setting].default:
                raise DataError(
                    f"{setting} is {name!r} but no row of {path} has it (the first has "
                    f"{', '.join(self._first_fields)}): correct or remove {setting}"
                )

    def _subtask(self, fields: Mapping[str, Any], name: str) -> str:
        if name not in fields:
            raise DataError(f"subtask_field {name!r} is missing (the row has {', '.join(fields)}): add or correct it")
        return _name(fields, name)

    def _id(
        self, fields: Mapping[str, Any], messages: tuple[Message, ...], position: int, locate: Callable[[int], str]
    ) -> str:
        if self._config.id_field in fields:
            given = _name(fields, self._config.id_field)
            if given in self._position_of:
                raise DataError(
                    f"{self._config.id_field} {given!r} was already given at {locate(self._position_of[given])}: "
                    "make ids unique"
                )
        else:
            given = self._content_id(messages)
        self._position_of[given] = position
        return given

    def _content_id(self, messages: tuple[Message, ...]) -> str:
        content = json.dumps([(message.role, message.content) for message in messages], separators=(",", ":"))
        digest = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
        copy = self._copies.get(digest, 0) + 1
        while (id := digest if copy == 1 else f"{digest}-{copy}") in self._position_of:
            copy += 1
        self._copies[digest] = copy
        return id


def _name(fields: Mapping[str, Any], field: str) -> str:
    """Return the value of a field that names something: text, or a whole number."""
    value = fields[field]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    name = text(value, field)
    if not name.strip():
        raise DataError(f"{field} is blank: fill it in, or leave the field out")
    return name


def _numbers(row: Mapping[str, Any], name: str) -> FloatArray:
    if row.get(name) is None:
        raise DataError(f"{name} is missing (the row has {', '.join(row)}): add it, or name another field")
    value = row[name]
    try:
        numbers = np.asarray(value)
    except ValueError:
        raise DataError(f"{name} is nested unevenly: give a flat list of numbers") from None
    if numbers.dtype.kind not in "iuf" or numbers.ndim != 1 or not len(numbers):
        raise DataError(f"{name} is {kind(value)}, not a flat list of numbers: give one list of numbers a row")
    with np.errstate(over="ignore"):
        numbers_F = numbers.astype(np.float32)
    if not np.isfinite(numbers_F).all():
        place = int(np.flatnonzero(~np.isfinite(numbers_F))[0])
        raise DataError(
            f"{name}[{place}] is {numbers[place]}, which float32 cannot hold as a finite number: replace it"
        )
    return numbers_F


def _first(skipped: list[Skipped]) -> str:
    if not skipped:
        return ": give at least one"
    return f": all {len(skipped)} were left out, the first because {skipped[0].location}: {skipped[0].reason}"
