"""The runs of a service on disk: what was asked, that it began, that it is to stop, how it ended, and its run folder.

    requests/<id>/asked.json   written whole before the request is answered, never changed
    requests/<id>/began.json   the first time that it left the queue
    requests/<id>/stop         its owner wants it to stop
    requests/<id>/ended.json   how it ended, never changed
    runs/<id>/                 the run folder

Invariants: these files are the truth, whatever process died; a run is queued, running or over by which of them are
there; only the service's one actor writes them, and everybody may read.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from clusterucb.config import RunConfig
from clusterucb.run.disk import write_atomically
from clusterucb.run.run_folder import RunFolder
from ray_app.service.records import GradientCounts, Outcome, RunRecord
from ray_app.service.refusals import NotFound

Part = TypeVar("Part", bound=BaseModel)


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(_Kept):
    """A request that was taken."""

    id: str
    owner: str
    created: datetime
    pool: str
    checkpoint: str
    target: str
    label: str
    settings: dict[str, Any]
    key: str | None
    request: str
    """Digest of the request, by which a key is held against it."""
    work: str
    """Digest of what is computed from what: equal works give equal bytes."""
    config: RunConfig


class Began(_Kept):
    """When a run was first started."""

    at: datetime


class End(_Kept):
    """What a run came to."""

    status: Literal["finished", "failed", "cancelled"]
    error: str | None = None


class Ended(End):
    """The end of a run, as it is kept."""

    at: datetime
    outcome: Outcome | None = None
    gradients: GradientCounts | None = None


class Ledger:
    """Reads and writes the files. All of it takes a disk's time: call it off the event loop."""

    def __init__(self, folder: Path) -> None:
        self._requests = folder / "requests"
        self._runs = folder / "runs"

    def ids(self) -> list[str]:
        """Return the ids of all runs, the newest first."""
        if not self._requests.is_dir():
            return []
        return sorted((each.name for each in self._requests.iterdir() if (each / "asked.json").exists()), reverse=True)

    def knows(self, run_id: str) -> bool:
        """Whether a run was asked for."""
        return (self._requests / run_id / "asked.json").exists()

    def all(self) -> Iterator[Asked]:
        """Yield what was asked, the oldest first."""
        for run_id in reversed(self.ids()):
            yield self.asked(run_id)

    def asked(self, run_id: str) -> Asked:
        """Return what was asked. Raises NotFound."""
        found = _read(self._requests / run_id / "asked.json", Asked)
        if found is None:
            raise NotFound(f"no run {run_id}: GET /v1/selections lists yours")
        return found

    def ask(self, asked: Asked) -> None:
        """Keep a request."""
        write_atomically(self._requests / asked.id / "asked.json", asked.model_dump_json())

    def began(self, run_id: str) -> Began | None:
        """Return when a run began."""
        return _read(self._requests / run_id / "began.json", Began)

    def begin(self, run_id: str, at: datetime) -> None:
        """Note that a run leaves the queue, unless it did before."""
        path = self._requests / run_id / "began.json"
        if not path.exists():
            write_atomically(path, Began(at=at).model_dump_json())

    def stop_file(self, run_id: str) -> Path:
        """Return the file that is there once a run is to stop."""
        return self._requests / run_id / "stop"

    def ended(self, run_id: str) -> Ended | None:
        """Return how a run ended."""
        return _read(self._requests / run_id / "ended.json", Ended)

    def end(self, run_id: str, ended: Ended) -> None:
        """Note how a run ended."""
        write_atomically(self._requests / run_id / "ended.json", ended.model_dump_json(exclude_none=True))

    def folder(self, run_id: str) -> RunFolder:
        """Return the folder that a run computes in."""
        return RunFolder.open(self._runs / run_id)

    def remove(self, run_id: str) -> None:
        """Delete a run that is over; what it was asked goes first, so that half a run is never listed."""
        (self._requests / run_id / "asked.json").unlink(missing_ok=True)
        shutil.rmtree(self._requests / run_id, ignore_errors=True)
        shutil.rmtree(self._runs / run_id, ignore_errors=True)

    def record(self, run_id: str) -> RunRecord:
        """Return a run as it stands, without its place in the queue and its stages. Raises NotFound."""
        ended = self.ended(run_id)  # first: who sees the end sees all that came before
        began = self.began(run_id)
        return record_of(self.asked(run_id), began, ended)


def record_of(asked: Asked, began: Began | None, ended: Ended | None) -> RunRecord:
    """Return a run's record from its files."""
    return RunRecord(
        id=asked.id,
        owner=asked.owner,
        status=ended.status if ended else "running" if began else "queued",
        pool=asked.pool,
        checkpoint=asked.checkpoint,
        target=asked.target,
        targets=tuple(target.name for target in asked.config.targets),
        label=asked.label,
        settings=asked.settings,
        created=asked.created,
        started=began.at if began else None,
        finished=ended.at if ended else None,
        gradients=ended.gradients if ended else None,
        outcome=ended.outcome if ended else None,
        error=ended.error if ended else None,
    )


def work_of(config: RunConfig) -> str:
    """Return the digest of what a configuration computes, and of the files on this machine that it reads."""
    parts = {
        "config": config.model_dump(mode="json", exclude={"workers", "store"}),
        "files": {
            name: _states(Path(name))
            for name in sorted(_texts(config.model_dump(mode="json", exclude={"workers", "store"})))
        },
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _texts(tree: object) -> Iterator[str]:
    """Yield every text in a configuration that may be a path."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _texts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value)
    elif isinstance(tree, str) and "/" in tree:
        yield tree


def _states(path: Path) -> list[tuple[str, int, int]]:
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
    else:  # a hub id, or a pattern of files
        files = sorted(each for each in path.parent.glob(path.name) if each.is_file())
    return [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files]


def _read(path: Path, kind: type[Part]) -> Part | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
