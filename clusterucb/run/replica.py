"""Where a run folder's files must be before they count, besides the local disk.

What is durable in a run is either a file written whole and then never changed, or one that only grows. A run folder on
a local or shared path needs no replica; one at a URL has an object store as its replica.
"""

from pathlib import Path
from typing import Protocol


class Replica(Protocol):
    """Takes every durable change of a run folder, after it was made on the local disk."""

    def put(self, path: Path) -> None:
        """Keep a file that was written whole."""
        ...

    def append(self, path: Path, start: int, data: bytes) -> None:
        """Keep what a growing file has gained from byte `start` on."""
        ...

    def cut(self, path: Path, size: int) -> None:
        """Forget what a growing file held from byte `size` on."""
        ...

    def seal(self, path: Path) -> None:
        """Expect a growing file to gain nothing for a while."""
        ...

    def remove(self, path: Path) -> None:
        """Forget a file."""
        ...


class NoReplica:
    """The local disk is all there is."""

    def put(self, path: Path) -> None:
        """Nothing more is needed."""

    def append(self, path: Path, start: int, data: bytes) -> None:
        """Nothing more is needed."""

    def cut(self, path: Path, size: int) -> None:
        """Nothing more is needed."""

    def seal(self, path: Path) -> None:
        """Nothing more is needed."""

    def remove(self, path: Path) -> None:
        """Nothing more is needed."""


NO_REPLICA = NoReplica()
