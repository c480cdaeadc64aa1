"""Verbs that select: here, on a cluster, as a job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ray_app.verbs.options import Address, Config, Folder, Json, Out, Quiet, Set
from ray_app.verbs.prove import evaluated, studied
from ray_app.verbs.train import looped, warmed_up

if TYPE_CHECKING:
    from clusterucb.config import RunConfig
    from clusterucb.run.run_folder import RunFolder
    from clusterucb.run.summary import Summary


def select(
    config: Config, out: Out = None, set_: Set = None, address: Address = None, quiet: Quiet = False, json: Json = False
) -> None:
    """Select a subset; run again to resume."""
    from clusterucb.settings import load_config

    _select(load_config(config, set_ or ()), out or f"runs/{config.stem}", address, quiet, json)


def resume(run: Folder, set_: Set = None, address: Address = None, quiet: Quiet = False, json: Json = False) -> None:
    """Go on with a run where it stopped; only `workers` may be changed with --set."""
    from clusterucb.run.run_folder import RunFolder
    from clusterucb.settings import build_config

    folder = RunFolder.open(run)
    config = build_config(folder.read_config().model_dump(mode="json"), set_ or ())
    match folder.verb:
        case "select":
            _select(config, run, address, quiet, json)
        case "warmup":
            warmed_up(config, run, address, quiet, json)
        case "run":
            looped(config, run, address, quiet, json)
        case "evaluate":
            evaluated(config, run, address, quiet, json)
        case "study":
            studied(config, None, run, address, quiet, json)


def _select(config: "RunConfig", out: str, address: str | None, quiet: bool, json: bool) -> None:
    from ray_app.cluster import choose_address

    where = choose_address(address)  # before Ray is imported
    from clusterucb.run.run_folder import RunFolder
    from clusterucb.run.summary import read_summary
    from ray_app.report import print_summary

    folder = RunFolder.open(out)
    if folder.finished:  # answered before Ray and torch are imported, which takes seconds
        folder.start(config)  # refuses other settings
        summary = read_summary(folder)
    else:
        summary = _run(config, folder, where, quiet, json)
    if json:
        print(summary.model_dump_json())
    else:
        print_summary(summary, folder, Console())


def _run(config: "RunConfig", folder: "RunFolder", where: str, quiet: bool, json: bool) -> "Summary":
    from ray_app.quiet import print_note, quieten_libraries
    from ray_app.select import select as run_selection
    from ray_app.sinks.feed import told_to_sinks
    from ray_app.views import view_of

    quieten_libraries()
    with told_to_sinks(config, folder, print_note):
        return run_selection(config, folder, where, view_of("quiet" if quiet else "json" if json else "bar"))


def submit(
    config: Config,
    out: Annotated[str, typer.Option(help="Run folder: a path on storage that all nodes share, or a URL.")],
    address: Annotated[
        str | None,
        typer.Option(
            help="The cluster's dashboard. Default: RAY_API_SERVER_ADDRESS if set, else http://127.0.0.1:8265."
        ),
    ] = None,
    run_id: Annotated[str | None, typer.Option(help="Names the run and its job. Default: the name of --out.")] = None,
    set_: Set = None,
    working_dir: Annotated[
        Path, typer.Option(help="The folder that is sent and in which the job runs; CONFIG lies in it.")
    ] = Path(),
    runtime_env: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Ray's runtime environment. Default: cluster_configs/runtime_env.yaml in the working directory.",
        ),
    ] = None,
    entrypoint_num_cpus: Annotated[
        float | None, typer.Option(help="CPUs for the driver, which then runs on any node instead of the head.")
    ] = None,
    entrypoint_num_gpus: Annotated[float | None, typer.Option(help="GPUs for the driver; it needs none.")] = None,
    entrypoint_memory_gib: Annotated[float | None, typer.Option(help="Memory for the driver.")] = None,
    entrypoint_resource: Annotated[
        list[str] | None, typer.Option(metavar="NAME=AMOUNT", help="A custom resource for the driver.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Show the job's log until it ends, and exit as it does.")] = True,
) -> None:
    """Have a cluster run a selection as a Ray Job; the same command again follows it, and resumes it once it has ended.

    CONFIG is checked here, before anything is sent; its paths are paths on the cluster. Ctrl-C stops following, not
    the job: `clusterucb cancel RUN_ID --address URL` does that.
    """
    from ray_app.submit import Submission, room_of, run

    room = room_of(entrypoint_num_cpus, entrypoint_num_gpus, entrypoint_memory_gib, tuple(entrypoint_resource or ()))
    name = run_id if run_id is not None else out.rstrip("/").rpartition("/")[2]
    asked = Submission(config, tuple(set_ or ()), out, name, working_dir, runtime_env, room)
    if code := run(asked, address, follow):
        raise typer.Exit(code)
