"""Targets that requests brought: rows kept by the digest of their bytes, and names for them, a folder for each owner.

Invariants: a file of rows never changes, so that a run that was resolved with it can always be resumed; equal rows are
one file, whoever sent them; what is listed can be used.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from clusterucb.config import Limits, Target
from clusterucb.data.rows import read_rows
from clusterucb.errors import DataError
from clusterucb.run.disk import write_atomically
from ray_app.service.records import StoredTarget
from ray_app.service.refusals import Conflict, InvalidRequest, NotFound, Unavailable
from ray_app.service.requests import ChatRow, InlineTarget, TargetUpload


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)

    digest: str
    rows: int
    subtask_field: str | None
    description: str


class Shelf:
    """The targets below one folder. Writing takes a disk's time: call it off the event loop."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder = folder
        self._limits = limits

    def keep_rows(self, target: InlineTarget, field: str = "target.rows") -> Target:
        """Write the rows of a target that was sent along, as `field` of the request; return it as a run configuration
        has it."""
        return self._target(self._write(target, field), target.subtask_field)

    def keep(self, owner: str, upload: TargetUpload) -> tuple[StoredTarget, bool]:
        """Keep a target under its name; return it, and whether just this was there already."""
        kept = _Kept(
            digest=self._write(upload, "rows"),
            rows=len(upload.rows),
            subtask_field=upload.subtask_field,
            description=upload.description,
        )
        file = self._file(owner, upload.name)
        if (before := self._read(file)) is not None:
            if before != kept:
                raise Conflict(f"target {upload.name!r} is there with other rows: choose another name or delete it")
            return _told(upload.name, kept), True
        if (count := len(self.list(owner))) >= self._limits.targets_per_token:
            raise Conflict(
                f"{owner} keeps {count} targets, and limits.targets_per_token of this service is "
                f"{self._limits.targets_per_token}: delete one first"
            )
        write_atomically(file, kept.model_dump_json())
        return _told(upload.name, kept), False

    def find(self, owner: str, name: str) -> Target | None:
        """Return a target by its name."""
        kept = self._read(self._file(owner, name))
        return None if kept is None else self._target(kept.digest, kept.subtask_field)

    def list(self, owner: str) -> tuple[StoredTarget, ...]:
        """Return what an owner keeps, by name."""
        files = sorted((self._folder / "names" / owner).glob("[!.]*.json"))
        return tuple(_told(file.stem, kept) for file in files if (kept := self._read(file)) is not None)

    def drop(self, owner: str, name: str) -> None:
        """Forget a name; the rows stay, for the runs that were resolved with them."""
        try:
            self._file(owner, name).unlink()
        except FileNotFoundError:
            raise NotFound(f"no uploaded target {name!r}: GET /v1/targets lists them") from None

    def _write(self, target: InlineTarget, field: str) -> str:
        """Check the rows as a run will, write them unless they are there, and return their digest."""
        check_count(target.rows, self._limits.target_rows, field, "limits.target_rows")
        lines = "".join(json.dumps(row.raw(), ensure_ascii=False) + "\n" for row in target.rows).encode()
        digest = hashlib.blake2b(lines, digest_size=16).hexdigest()
        file = self._rows_file(digest)
        self._check_room(file, len(lines))
        beside = file.with_name(f".{digest}.{secrets.token_hex(4)}.jsonl")
        write_atomically(beside, lines)
        try:
            for _ in read_rows(Target(path=str(beside), subtask_field=target.subtask_field)):
                pass
        except DataError as error:
            beside.unlink()
            reason = str(error).replace(str(beside), field).removesuffix("; on_bad_row: skip leaves such rows out")
            raise InvalidRequest(reason, field) from None
        beside.replace(file)
        return digest

    def _check_room(self, file: Path, size: int) -> None:
        if file.exists() or not file.parent.exists():
            return
        used = sum(entry.stat().st_size for entry in os.scandir(file.parent))
        if used + size > self._limits.target_bytes:
            raise Unavailable(
                f"targets take {used} bytes, and limits.target_bytes of this service is {self._limits.target_bytes}: "
                f"name a target that is there, or ask the operator for room",
                retry_after_s=3600,
            )

    def _target(self, digest: str, subtask_field: str | None) -> Target:
        return Target(path=str(self._rows_file(digest)), format="jsonl", subtask_field=subtask_field)

    def _rows_file(self, digest: str) -> Path:
        return self._folder / "rows" / f"{digest}.jsonl"

    def _file(self, owner: str, name: str) -> Path:
        return self._folder / "names" / owner / f"{name}.json"

    @staticmethod
    def _read(file: Path) -> _Kept | None:
        try:
            return _Kept.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None


def check_count(rows: Sequence[ChatRow], most: int, field: str, limit: str) -> None:
    """Refuse more rows than the service takes."""
    if len(rows) > most:
        raise InvalidRequest(
            f"{field} holds {len(rows)} rows, and {limit} of this service is {most}: send fewer", field
        )


def _told(name: str, kept: _Kept) -> StoredTarget:
    return StoredTarget(
        name=name,
        description=kept.description,
        origin="uploaded",
        rows=kept.rows,
        subtask_field=kept.subtask_field,
    )
