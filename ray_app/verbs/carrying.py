"""What verbs that compute a folder share: who hears of it, and how its result is shown."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel
from rich.console import Console

if TYPE_CHECKING:
    from clusterucb.config import RunConfig
    from clusterucb.run.run_folder import RunFolder
    from ray_app.views import Mode

Result = TypeVar("Result", bound=BaseModel)


def carry_out(
    config: "RunConfig",
    out: str,
    quiet: bool,
    json: bool,
    work: "Callable[[RunFolder, Mode], Result]",
    show: "Callable[[Result, RunFolder, Console], None]",
) -> None:
    """Do or go on with the work of a folder, and print what came of it."""
    from clusterucb.run.run_folder import RunFolder
    from ray_app.quiet import print_note, quieten_libraries
    from ray_app.sinks.feed import told_to_sinks

    quieten_libraries()
    folder = RunFolder.open(out)
    with told_to_sinks(config, folder, print_note):
        summary = work(folder, "quiet" if quiet else "json" if json else "bar")
    if json:
        print(summary.model_dump_json())
    else:
        show(summary, folder, Console())
