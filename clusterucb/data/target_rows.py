"""The examples of several targets, read one target after another as the rows of one store.

Invariant: what comes of target t is named after it. An example is `t/<its id>`; its subtask is `t/<its subtask>`, or
`t` where the target has no subtasks, so that a subtask's name says which target it belongs to (names have no slash).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from clusterucb.config import NamedTarget, RunConfig
from clusterucb.data.rows import Row, Skipped, read_rows
from clusterucb.data.tokens import RowSource


class TargetRows:
    """Several targets as one stream of rows. Raises DataError where there is nothing at a path."""

    def __init__(self, targets: Sequence[NamedTarget]) -> None:
        self._targets = targets
        self._readers = [read_rows(target) for target in targets]
        self.skipped: list[Skipped] = []

    @property
    def name(self) -> str:
        """Where the rows come from."""
        return ", ".join(reader.name for reader in self._readers)

    @property
    def skips_bad(self) -> bool:
        """Whether every target leaves bad rows out: the strictest one decides."""
        return all(reader.skips_bad for reader in self._readers)

    def __iter__(self) -> Iterator[Row]:
        """Yield the usable rows of every target, in the targets' order."""
        position = 0
        for target, reader in zip(self._targets, self._readers, strict=True):
            for row in reader:
                subtask = target.name if target.subtask_field is None else f"{target.name}/{row.subtask}"
                yield replace(row, id=f"{target.name}/{row.id}", subtask=subtask, position=position)
                position += 1
        self.skipped = [skipped for reader in self._readers for skipped in reader.skipped]

    def fingerprint(self) -> str:
        """Hash what is read of every target."""
        read = json.dumps([reader.fingerprint() for reader in self._readers])
        return hashlib.blake2b(read.encode(), digest_size=16).hexdigest()


def examples(config: RunConfig) -> RowSource:
    """Open the rows of the target, or of all targets."""
    return TargetRows(config.targets) if config.target is None else read_rows(config.target)


def target_of(subtask: str) -> str:
    """Return the name of the target that a subtask belongs to, where there are several."""
    return subtask.partition("/")[0]
