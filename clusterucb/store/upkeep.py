"""Looking after a store: what is in it, whether it is sound, and keeping it within its bounds.

Invariant: nothing that an open reader or writer holds is removed, so a store may stand above its bound while runs use
more than that, by what they hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from clusterucb.store.keys import Described
from clusterucb.store.shards import Shard, matrix_path, remove_shard, shard_paths
from clusterucb.store.store import KEY_FILE

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One shard as the file system sees it."""

    path: Path
    num_bytes: int
    used: float
    """When it was last read or written, in seconds since the epoch."""


class Holding(BaseModel):
    """What a store has of one key."""

    model_config = ConfigDict(frozen=True)

    digest: str
    described: Described
    shards: int
    rows: int
    bytes: int
    used: float


class Verdict(BaseModel):
    """Whether what is there is what was written."""

    model_config = ConfigDict(frozen=True)

    digest: str
    rows: int
    damaged: int
    torn_bytes: int
    """Behind the sound part of the indices: the end of a write that a crash cut short."""


def shard_files(store: Path) -> list[ShardFile]:
    """Return all shards of a store, those first that have been of no use for the longest time."""
    found: list[ShardFile] = []
    for folder in _folders(store):
        for path in shard_paths(folder):
            try:
                index, matrix = path.stat(), matrix_path(path)
                size = index.st_size + (matrix.stat().st_size if matrix.exists() else 0)
            except FileNotFoundError:
                continue
            found.append(ShardFile(path, size, index.st_mtime))
    return sorted(found, key=lambda shard: (shard.used, shard.path))


def evict(store: Path, max_bytes: int) -> list[ShardFile]:
    """Remove the shards of least recent use that nobody holds, until the store is within its bound."""
    shards = shard_files(store)
    total = sum(shard.num_bytes for shard in shards)
    gone: list[ShardFile] = []
    for shard in shards:
        if total <= max_bytes:
            break
        if remove_shard(shard.path):
            total -= shard.num_bytes
            gone.append(shard)
    return gone


def remove(shards: Sequence[ShardFile]) -> list[ShardFile]:
    """Remove these shards, but for those that somebody holds; return what is gone."""
    return [shard for shard in shards if remove_shard(shard.path)]


def holdings(store: Path) -> list[Holding]:
    """Return what there is of every key, the one of most recent use first."""
    by_folder: dict[Path, list[ShardFile]] = {}
    for shard in shard_files(store):
        by_folder.setdefault(shard.path.parent, []).append(shard)
    found: list[Holding] = []
    for folder, shards in by_folder.items():
        described = describe(folder)
        if described is None:
            continue
        found.append(
            Holding(
                digest=folder.name,
                described=described,
                shards=len(shards),
                rows=sum(_num_rows(shard.path, described) for shard in shards),
                bytes=sum(shard.num_bytes for shard in shards),
                used=max(shard.used for shard in shards),
            )
        )
    return sorted(found, key=lambda holding: -holding.used)


def verify(store: Path) -> list[Verdict]:
    """Read everything and compare it with its checksums."""
    found: list[Verdict] = []
    for folder in _folders(store):
        described = describe(folder)
        if described is None:
            continue
        rows = damaged = torn = 0
        for path in shard_paths(folder):
            shard = Shard.open(path, described.dim)
            if shard is None:
                continue
            with shard:
                rows, torn = rows + len(shard), torn + max(0, path.stat().st_size - shard.index.num_bytes)
                for start in range(0, len(shard), _ROWS_AT_ONCE):
                    _, sound = shard.read(np.arange(start, min(start + _ROWS_AT_ONCE, len(shard))))
                    damaged += int((~sound).sum())
        found.append(Verdict(digest=folder.name, rows=rows, damaged=damaged, torn_bytes=torn))
    return found


def describe(folder: Path) -> Described | None:
    """Return the key of a folder of the store; none where it is no such folder."""
    try:
        return Described.model_validate_json((folder / KEY_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _folders(store: Path) -> list[Path]:
    return sorted(path.parent for path in store.glob(f"*/{KEY_FILE}"))


def _num_rows(path: Path, described: Described) -> int:
    shard = Shard.open(path, described.dim)
    if shard is None:
        return 0
    with shard:
        return len(shard)
