"""Verbs that look after a run: how far it is, following it, stopping it."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ray_app.verbs.options import Folder, Json


def status(run: Folder, json: Json = False) -> None:
    """Say how far a run is."""
    from ray_app.status import print_status, read_status

    found = read_status(run)
    if json:
        print(found.model_dump_json())
    else:
        print_status(found, Console())


def watch(run: Folder, json: Json = False) -> None:
    """Follow a run until it ends."""
    from ray_app.status import follow
    from ray_app.views import view_of

    follow(run, view_of("json" if json else "bar"))


def report(
    run: Folder,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write it here instead of into the run folder.")] = None,
) -> None:
    """Make the report of a run, whatever state it is in: one page that needs no network.

    A finished run has one already; this makes it anew. Texts of an unfinished run take a pass over its pool.
    """
    from ray_app.run_report import make_report

    path = make_report(run, out)
    Console().print(str(path), highlight=False, soft_wrap=True)
    if open_:
        typer.launch(path.as_uri())


def cancel(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder; with --address the id of a submitted run.")],
    address: Annotated[str | None, typer.Option(help="Stop the run's job, through this dashboard.")] = None,
) -> None:
    """Stop a run; what was scored is kept and `resume`, or submitting again, goes on."""
    if address is not None:
        from ray_app.submit import cancel as cancel_job

        Console().print(f"stopped job {cancel_job(Path(run).name, address)}: submitting the run again goes on")
        return
    from ray_app.status import request_cancel

    request_cancel(run)
    Console().print(f"asked {run} to stop: it does so within a second or two")
