"""Verbs that look after a sketch store: what is in it, whether it is sound, and removing what is not wanted."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clusterucb.errors import ConfigError

store = typer.Typer(no_args_is_help=True, help="Look after a sketch store.")

Folder = Annotated[Path, typer.Argument(metavar="STORE", help="The folder that `store.path` names.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@store.command("list")
def list_(folder: Folder, json: Json = False) -> None:
    """Say what is kept: checkpoints, rows, bytes, last use."""
    from ray_app.store import print_holdings, read_holdings

    found = read_holdings(folder)
    if json:
        print(found.model_dump_json())
    else:
        print_holdings(found, Console())


@store.command()
def prune(
    folder: Folder,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Remove the sketches of this checkpoint: the first letters of its name in `list`."),
    ] = None,
    unused_days: Annotated[
        float | None, typer.Option(min=0, help="Remove what was of no use for so many days.")
    ] = None,
    max_gib: Annotated[
        float | None, typer.Option(min=0, help="Remove what was of no use for the longest time, down to this size.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove sketches that no run has open; later runs compute them again."""
    import time

    from ray_app.store import Wanted, doomed, print_pruned, prune_shards

    if checkpoint is None and unused_days is None and max_gib is None:
        raise ConfigError("prune needs to know what to remove: give --checkpoint, --unused-days or --max-gib")
    shards = doomed(folder, Wanted(checkpoint, unused_days, max_gib), time.time())
    size = sum(shard.num_bytes for shard in shards)
    if shards and not yes:
        typer.confirm(f"remove {len(shards)} shards of {size / 2**20:.1f} MiB from {folder}?", abort=True, err=True)
    pruned = prune_shards(shards)
    if json:
        print(pruned.model_dump_json())
    else:
        print_pruned(pruned, Console())


@store.command()
def verify(folder: Folder, json: Json = False) -> None:
    """Read everything and compare it with its checksums; exit with 2 where something is damaged."""
    from ray_app.store import print_verdicts, read_verdicts

    found = read_verdicts(folder)
    if json:
        print(found.model_dump_json())
    else:
        print_verdicts(found, Console())
    if any(verdict.damaged for verdict in found.checkpoints):
        raise typer.Exit(2)
