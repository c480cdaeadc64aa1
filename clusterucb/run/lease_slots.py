"""Where leases lie: numbered records in a folder or in an object store, created once each.

Invariant: of several that create the same number one alone succeeds; what was written is what the next read sees.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from clusterucb.run.disk import write_atomically, writing
from clusterucb.run.remote import Remote
from clusterucb.run.run_folder import RunFolder

_SETTLE_S = 0.5


class Slots(Protocol):
    """Numbered records."""

    location: str
    """Of the run, for people."""

    def latest(self) -> tuple[int, bytes] | None:
        """Return the highest number and its record."""
        ...

    def create(self, number: int, data: bytes) -> bool:
        """Write a record of a new number; False where the number is taken."""
        ...

    def write(self, number: int, data: bytes) -> None:
        """Replace a record."""
        ...

    def drop_before(self, number: int) -> None:
        """Remove the records of lower numbers, as far as they are there."""
        ...


def slots_of(folder: RunFolder, sleep: Callable[[float], None] = time.sleep) -> Slots:
    """Return where the leases of a run lie."""
    if folder.remote is None:
        return LocalSlots(folder.state / "lease", folder.location)
    return RemoteSlots(folder.remote, sleep)


class LocalSlots:
    """Files of one folder."""

    def __init__(self, folder: Path, location: str) -> None:
        self.location = location
        self._folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def latest(self) -> tuple[int, bytes] | None:
        """Read the file of the highest number."""
        while numbers := self._numbers():
            try:
                return max(numbers), self._path(max(numbers)).read_bytes()
            except FileNotFoundError:
                continue  # a later holder removed it in between
        return None

    def create(self, number: int, data: bytes) -> bool:
        """Create a file that must be new."""
        path = self._path(number)
        with writing(path):
            try:
                with path.open("xb") as file:
                    file.write(data)
            except FileExistsError:
                return False
        return True

    def write(self, number: int, data: bytes) -> None:
        """Replace a file."""
        write_atomically(self._path(number), data)

    def drop_before(self, number: int) -> None:
        """Remove the files of lower numbers."""
        for lower in self._numbers():
            if lower < number:
                self._path(lower).unlink(missing_ok=True)

    def _numbers(self) -> list[int]:
        return [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}"


class RemoteSlots:
    """Objects below one name. Stores that cannot create exclusively get time to settle before the record is read."""

    def __init__(self, remote: Remote, sleep: Callable[[float], None]) -> None:
        self.location = remote.url
        self._remote = remote
        self._sleep = sleep

    def latest(self) -> tuple[int, bytes] | None:
        """Read the object of the highest number."""
        while numbers := self._numbers():
            data = self._remote.read(self._name(max(numbers)))
            if data is not None:
                return max(numbers), data
        return None

    def create(self, number: int, data: bytes) -> bool:
        """Create an object that must be new, and see that it stays."""
        if not self._remote.create(self._name(number), data):
            return False
        self._sleep(_SETTLE_S)
        return self._remote.read(self._name(number)) == data

    def write(self, number: int, data: bytes) -> None:
        """Replace an object."""
        self._remote.write(self._name(number), data)

    def drop_before(self, number: int) -> None:
        """Remove the objects of lower numbers."""
        self._remote.delete(self._name(lower) for lower in self._numbers() if lower < number)

    def _numbers(self) -> list[int]:
        return [int(name) for name in self._remote.names("state/lease") if name.isdecimal()]

    def _name(self, number: int) -> str:
        return f"state/lease/{number:08d}"
