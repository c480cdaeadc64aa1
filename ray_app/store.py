"""A sketch store as people see it: what it holds, what pruning takes, whether it is sound."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from clusterucb.errors import ConfigError
from clusterucb.store.upkeep import Holding, ShardFile, Verdict, holdings, remove, shard_files, verify

_DAY_S = 86400.0
_NAME = 8


class Holdings(BaseModel):
    """What a store holds, by checkpoint and gradient settings."""

    store: str
    bytes: int
    checkpoints: tuple[Holding, ...]


class Verdicts(BaseModel):
    """Whether a store is sound."""

    store: str
    checkpoints: tuple[Verdict, ...]


class Pruned(BaseModel):
    """What was removed, and what is held by runs and stayed."""

    removed: int
    removed_bytes: int
    held: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to go."""

    checkpoint: str | None
    unused_days: float | None
    max_gib: float | None


def read_holdings(folder: Path) -> Holdings:
    """Return what a store holds. Raises ConfigError where there is no folder."""
    _check(folder)
    size = sum(shard.num_bytes for shard in shard_files(folder))
    return Holdings(store=str(folder), bytes=size, checkpoints=tuple(holdings(folder)))


def read_verdicts(folder: Path) -> Verdicts:
    """Check a store. Raises ConfigError where there is no folder."""
    _check(folder)
    return Verdicts(store=str(folder), checkpoints=tuple(verify(folder)))


def doomed(folder: Path, wanted: Wanted, now: float) -> list[ShardFile]:
    """Return the shards that all wishes together name. Raises ConfigError for an unknown checkpoint."""
    _check(folder)
    shards = shard_files(folder)
    if wanted.checkpoint is not None:
        shards = [shard for shard in shards if shard.path.parent.name.startswith(wanted.checkpoint)]
        names = {shard.path.parent.name for shard in shards}
        if len(names) != 1:
            raise ConfigError(
                f"{folder} has {len(names)} checkpoints whose name begins with {wanted.checkpoint!r}: "
                f"`clusterucb store list {folder}` names them"
            )
    if wanted.unused_days is not None:
        shards = [shard for shard in shards if shard.used < now - wanted.unused_days * _DAY_S]
    if wanted.max_gib is not None:
        excess = sum(shard.num_bytes for shard in shards) - wanted.max_gib * 2**30
        kept: list[ShardFile] = []
        for shard in shards:
            if excess <= 0:
                break
            kept.append(shard)
            excess -= shard.num_bytes
        shards = kept
    return shards


def prune_shards(shards: Sequence[ShardFile]) -> Pruned:
    """Remove shards, but for those that a run holds."""
    gone = remove(shards)
    return Pruned(removed=len(gone), removed_bytes=sum(shard.num_bytes for shard in gone), held=len(shards) - len(gone))


def print_holdings(found: Holdings, console: Console) -> None:
    """Print a line for each checkpoint and way of taking gradients."""
    if not found.checkpoints:
        console.print(f"{found.store} holds no sketches", highlight=False)
        return
    table = Table()
    for column in ("name", "base", "adapter", "gradients", "sketch", "rows", "MiB", "last used"):
        table.add_column(column, justify="right" if column in ("rows", "MiB") else "left", no_wrap=column == "name")
    for holding in found.checkpoints:
        described, key = holding.described, holding.described.key
        gradients = f"{key.precondition.kind}, {key.device}" + ("" if key.modules == "lora" else ", chosen layers")
        table.add_row(
            holding.digest[:_NAME],
            Path(described.base).name,
            "fresh" if described.adapter is None else Path(described.adapter).name,
            gradients,
            f"{key.sketch.kind} {described.dim}",
            f"{holding.rows:,}",
            f"{holding.bytes / 2**20:.1f}",
            datetime.datetime.fromtimestamp(holding.used).isoformat(" ", "minutes"),
        )
    console.print(table)
    console.print(f"{found.bytes / 2**20:.1f} MiB in all", highlight=False)


def print_pruned(pruned: Pruned, console: Console) -> None:
    """Say what is gone."""
    held = f"; {pruned.held} are in use and stay" if pruned.held else ""
    size = pruned.removed_bytes / 2**20
    console.print(f"removed {pruned.removed} shards, {size:.1f} MiB{held}", highlight=False)


def print_verdicts(found: Verdicts, console: Console) -> None:
    """Say what is sound and what is not."""
    for verdict in found.checkpoints:
        state = f"{verdict.damaged} DAMAGED" if verdict.damaged else "sound"
        torn = f", {verdict.torn_bytes} bytes of an unfinished write" if verdict.torn_bytes else ""
        console.print(f"{verdict.digest}: {verdict.rows} rows, {state}{torn}", highlight=False)
    if any(verdict.damaged for verdict in found.checkpoints):
        console.print("damaged rows are never used: runs compute them anew; `store prune --checkpoint` removes all")


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give the one that store.path names")
