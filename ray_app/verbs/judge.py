"""Verbs that measure: what a run costs, what given samples are worth, which allocator is best."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clusterucb.errors import ConfigError
from ray_app.verbs.options import Address, Config, Json, Quiet, Set


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
    target: Annotated[
        str | None, typer.Option(help="Target in the table; several that share draws: gsm8k+mbpp.")
    ] = None,
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
