"""The command line. Verbs parse and validate first; torch and Ray are imported only by those that need them.

Exit codes: 0 done, 1 a defect of this program, 2 a mistake that the user can mend, 130 stopped.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from clusterucb.errors import ClusterUCBError, ConfigError, Stopped

if TYPE_CHECKING:
    from clusterucb.config import RunConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Choose the few per cent of a pool most worth fine-tuning on.",
)

Config = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file; see cluster_configs/runs for examples.")]
Folder = Annotated[str, typer.Argument(metavar="RUN", help="A run folder: a path, or a URL such as s3://bucket/run.")]
Out = Annotated[
    str | None, typer.Option(help="Run folder, a path or a URL; runs/<name of CONFIG> where it is left out.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. search.budget=0.1")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster: local, auto or host:port. Default: RAY_ADDRESS if set, else local.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but the result.")]
Json = Annotated[bool, typer.Option("--json", help="Print events and the summary as JSON lines.")]


@app.command()
def select(
    config: Config, out: Out = None, set_: Set = None, address: Address = None, quiet: Quiet = False, json: Json = False
) -> None:
    """Select a subset; run again to resume."""
    from clusterucb.settings import load_config

    _select(load_config(config, set_ or ()), out or f"runs/{config.stem}", address, quiet, json)


@app.command()
def resume(run: Folder, set_: Set = None, address: Address = None, quiet: Quiet = False, json: Json = False) -> None:
    """Go on with a run where it stopped; only `workers` may be changed with --set."""
    from clusterucb.run.run_folder import RunFolder
    from clusterucb.settings import build_config

    stored = RunFolder.open(run).read_config().model_dump(mode="json")
    _select(build_config(stored, set_ or ()), run, address, quiet, json)


def _select(config: "RunConfig", out: str, address: str | None, quiet: bool, json: bool) -> None:
    from ray_app.cluster import choose_address

    where = choose_address(address)  # before Ray is imported
    from clusterucb.run.run_folder import RunFolder
    from ray_app.quiet import quieten_libraries
    from ray_app.report import print_summary
    from ray_app.select import select as run_selection
    from ray_app.views import view_of

    quieten_libraries()
    folder = RunFolder.open(out)
    summary = run_selection(config, folder, where, view_of("quiet" if quiet else "json" if json else "bar"))
    if json:
        print(summary.model_dump_json())
    else:
        print_summary(summary, folder, Console())


@app.command()
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


@app.command()
def plan(
    config: Config,
    set_: Set = None,
    address: Address = None,
    calibration: Annotated[bool, typer.Option(help="Time a few micro-batches on one worker.")] = True,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print the estimate as JSON.")] = False,
) -> None:
    """Say what a run will cost, before it starts."""
    from clusterucb.settings import load_config
    from ray_app.cluster import choose_address

    loaded = load_config(config, set_ or ())
    where = choose_address(address)  # before Ray is imported
    from pydantic import TypeAdapter

    from clusterucb.plan.estimate import Estimate
    from ray_app.plan import plan as plan_run
    from ray_app.plan_report import print_estimate
    from ray_app.quiet import quieten_libraries
    from ray_app.views import view_of

    quieten_libraries()
    estimate = plan_run(loaded, where, view_of("quiet" if quiet or json else "bar"), calibration)
    if json:
        print(TypeAdapter(Estimate).dump_json(estimate).decode())
    else:
        print_estimate(estimate, Console())


@app.command()
def compare(
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="YAML file; may be left out with --table.")
    ] = None,
    allocators: Annotated[str, typer.Option(help="Allocators, comma-separated.")] = (
        "predictive,ucb_beta,ucb1,thresh_hard,thresh_normal,uniform"
    ),
    features: Annotated[
        str | None,
        typer.Option(
            help="hidden, output_gradient, gradient, earlier, proxy, embedding, given, or several that prediction sees "
            "together, clusters being of the first: hidden+proxy; of a table earlier+influence+match+source. Default: "
            "the configuration's, and gradient."
        ),
    ] = None,
    budgets: Annotated[str, typer.Option(help="Shares of the pool, comma-separated.")] = "0.1,0.2,0.3",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of clusters and draws, counted from `seed`.")] = 4,
    table: Annotated[Path | None, typer.Option(help="Judge from a recorded .npz table instead of a run.")] = None,
    target: Annotated[str | None, typer.Option(help="Target in the table.")] = None,
    earlier: Annotated[
        Path | None, typer.Option(help="Table of an earlier checkpoint, whose sketches are features `earlier`.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder; runs/compare-<name> where it is left out.")] = None,
    set_: Set = None,
    address: Address = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Judge allocators, features and budgets against exhaustive scoring, which is computed once and kept."""
    from ray_app.cluster import choose_address

    where = choose_address(address)  # before Ray is imported
    from clusterucb.run.run_folder import RunFolder
    from clusterucb.settings import load_config
    from ray_app.compare import Recorded, compare_recorded, compare_runs, print_comparison, settings_of, wanted

    asked = wanted(allocators, features, budgets, seeds)
    mode = "quiet" if quiet else "json" if json else "bar"
    name = config.stem if config is not None else table.stem if table is not None else ""
    folder = RunFolder.open(out or f"runs/compare-{name}")
    if table is not None:
        settings = settings_of(table, set_ or ()) if config is None else load_config(config, set_ or ())
        comparison = compare_recorded(Recorded(table, target, earlier), settings, asked, folder, mode)
    elif config is not None:
        comparison = compare_runs(load_config(config, set_ or ()), asked, folder, where, mode)
    else:
        raise ConfigError("compare needs a pool: give CONFIG, or a recorded table with --table")
    if json:
        print(comparison.model_dump_json())
    else:
        print_comparison(comparison, folder, Console())


@app.command()
def score(
    config: Config,
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="The rows to score: as `pool.path` of a configuration.")],
    out: Annotated[str | None, typer.Option(help="Folder; runs/score-<name of ROWS> where it is left out.")] = None,
    set_: Set = None,
    address: Address = None,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON line for each row, the best first.")] = False,
) -> None:
    """Say how much given samples would help: their influence on the target, best first."""
    from clusterucb.settings import load_config
    from ray_app.cluster import choose_address

    loaded = load_config(config, set_ or ())
    where = choose_address(address)  # before Ray is imported
    from clusterucb.run.run_folder import RunFolder
    from ray_app.quiet import quieten_libraries
    from ray_app.score import print_scores, scored_rows
    from ray_app.score import score as score_rows
    from ray_app.views import view_of

    quieten_libraries()
    folder = RunFolder.open(out or f"runs/score-{rows.stem}")
    summary = score_rows(loaded, rows, folder, where, view_of("quiet" if quiet or json else "bar"))
    if json:
        for row in scored_rows(folder):
            print(row.model_dump_json())
    else:
        print_scores(summary, folder, Console())


@app.command()
def status(run: Folder, json: Json = False) -> None:
    """Say how far a run is."""
    from ray_app.status import print_status, read_status

    found = read_status(run)
    if json:
        print(found.model_dump_json())
    else:
        print_status(found, Console())


@app.command()
def watch(run: Folder, json: Json = False) -> None:
    """Follow a run until it ends."""
    from ray_app.status import follow
    from ray_app.views import view_of

    follow(run, view_of("json" if json else "bar"))


@app.command()
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


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    try:
        app()
    except ClusterUCBError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Stopped as stopped:
        print(stopped, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(130)  # all is closed; taking torch down politely outlasts the three seconds that a job stop grants
