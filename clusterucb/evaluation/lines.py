"""What was found so far, a JSON line each: appended and synced, and read again by whoever goes on.

Invariant: a line counts when its end is on disk; a crash in the middle of one loses that line alone.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from clusterucb.run.disk import write_all, writing

Found = TypeVar("Found", bound=BaseModel)


class Lines(Generic[Found]):
    """The lines of one file."""

    def __init__(self, path: Path, kind: type[Found]) -> None:
        self._path = path
        self.found: list[Found] = []
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = path.read_bytes() if path.exists() else b""
            kept = whole[: whole.rfind(b"\n") + 1]
            if len(kept) < len(whole):
                os.truncate(path, len(kept))
        self.found = [kind.model_validate_json(line) for line in kept.splitlines()]

    def add(self, found: Iterable[Found]) -> None:
        """Append, and have it on disk."""
        new = list(found)
        data = "".join(each.model_dump_json() + "\n" for each in new).encode()
        with writing(self._path), self._path.open("ab", buffering=0) as file:
            write_all(file.fileno(), data)
            os.fsync(file.fileno())
        self.found += new
