"""The verb `compare`: bring the reference and the features, simulate every arm, leave table, CSV, JSON and plot.

Invariant: what takes a model lies in run folders below the output folder and is computed once; everything else is
simulated again in seconds.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track
from rich.table import Table

from clusterucb.compare.comparison import Plan, PoolFeatures, Reference, check_plan, plan_of, trials
from clusterucb.compare.comparison_table import Comparison, Line, Spread, averages, write_csv
from clusterucb.compare.recorded import RecordedTable
from clusterucb.config import RunConfig
from clusterucb.errors import ConfigError, Stopped
from clusterucb.run.disk import write_atomically
from clusterucb.run.run_folder import RunFolder
from clusterucb.settings import build_config
from ray_app.views import Mode, view_of

_IMAGES = ("png", "svg")
Metric = Literal["recall", "influence", "spearman", "cost"]

_METRICS: tuple[tuple[Metric, str], ...] = (
    ("recall", "recall: share of the true top {k} that was scored"),
    ("influence", "influence: sum of the best {k} scored over the true top {k}'s"),
    ("spearman", "spearman: ranks by cluster means against true ranks"),
    ("cost", "cost: tokens x passes, features included, over exhaustive"),
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is compared; no features means those at hand."""

    allocators: tuple[str, ...]
    features: tuple[str, ...]
    budgets: tuple[float, ...]
    seeds: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded table, the target in it, and the table of an earlier checkpoint."""

    table: Path
    target: str | None
    earlier: Path | None


def wanted(allocators: str, features: str | None, budgets: str, seeds: int) -> Wanted:
    """Read comma-separated options."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in text.split(",") if name.strip())

    try:
        shares = tuple(float(budget) for budget in names(budgets))
    except ValueError:
        raise ConfigError(f"--budgets {budgets} is no list of shares: write it like 0.1,0.2,0.3") from None
    return Wanted(names(allocators), names(features or ""), shares, seeds)


def settings_of(table: Path, overrides: Sequence[str]) -> RunConfig:
    """Return default settings and `--set` for a table that comes without a configuration; it stands for the pool."""
    rows = {"path": str(table)}
    return build_config({"pool": rows, "target": dict(rows), "model": {"base": str(table)}}, overrides)


def compare_runs(config: RunConfig, wanted: Wanted, out: RunFolder, address: str, mode: Mode) -> Comparison:
    """Compare on the configuration's own pool; what is missing of features and rewards is computed first."""
    from clusterucb.compare.reference import (
        GRADIENT,
        check_kinds,
        default_kinds,
        feature_config,
        parts_of,
        read_features,
        read_reference,
        reference_config,
    )
    from clusterucb.run.prepared import open_prepared
    from ray_app.cluster import connected
    from ray_app.quiet import quieten_libraries
    from ray_app.select import drive, select

    quieten_libraries()
    kinds = wanted.features or default_kinds(config)
    check_kinds(kinds, config)
    plan = plan_of(wanted.allocators, wanted.budgets, wanted.seeds, config)
    reference = RunFolder.open(f"{out.location}/reference")
    folders = {part: RunFolder.open(f"{out.location}/features-{part}") for part in parts_of(kinds)}
    with contextlib.ExitStack() as stack:
        if not reference.finished:
            stack.enter_context(connected(address))  # once for all that follows
        try:
            for part, folder in folders.items():
                if part != GRADIENT:
                    drive(feature_config(config, part), folder, address, view_of(mode), "features")
                    check_plan(plan, config, int(open_prepared(folder)[0].usable_N.sum()))
            select(reference_config(config), reference, address, view_of(mode))
        except Stopped:
            raise Stopped(f"stopped; everything computed is kept in {out.location}: the same command goes on") from None
    for folder in (reference, *folders.values()):
        folder.take_over()
    features = [read_features(kind, folders, reference) for kind in kinds]
    return _judge(read_reference(reference), features, plan, config, out, mode)


def compare_recorded(recorded: Recorded, config: RunConfig, wanted: Wanted, out: RunFolder, mode: Mode) -> Comparison:
    """Compare on a recorded table; of the configuration count clusters, search, selection and seed."""
    table = RecordedTable(recorded.table)
    earlier = None if recorded.earlier is None else RecordedTable(recorded.earlier)
    brought = () if earlier is None else ("earlier", "earlier+influence+match")
    features = [table.described(kind, recorded.target, earlier) for kind in wanted.features or (*table.kinds, *brought)]
    plan = plan_of(wanted.allocators, wanted.budgets, wanted.seeds, config)
    return _judge(table.reference(recorded.target), features, plan, config, out, mode)


def _judge(
    reference: Reference,
    features: Sequence[PoolFeatures],
    plan: Plan,
    config: RunConfig,
    out: RunFolder,
    mode: Mode,
) -> Comparison:
    """Simulate every trial; write CSV, JSON and plot."""
    from ray_app.compare_front import plot_front
    from ray_app.compare_plot import plot

    usable = int(reference.usable_N.sum())
    check_plan(plan, config, usable)
    found = tuple(
        track(
            trials(reference, features, plan, config),
            description="simulate",
            total=plan.size(len(features)),
            console=Console(stderr=True),
            disable=mode != "bar",
        )
    )
    comparison = Comparison(
        pool=usable, selected=config.selection.size(usable), seeds=plan.seeds, lines=averages(found)
    )
    write_csv(out.path / "compare.csv", found)
    write_atomically(out.path / "compare.json", comparison.model_dump_json(indent=1) + "\n")
    plot(comparison, out.path / "compare")
    plot_front(comparison, out.path / "compare-front")
    for name in ("compare.csv", "compare.json", *(f"compare{of}.{kind}" for of in ("", "-front") for kind in _IMAGES)):
        out.replica.put(out.path / name)
    return comparison


def print_comparison(comparison: Comparison, out: RunFolder, console: Console) -> None:
    """Print a table a metric, one column a budget, and where the files are."""
    *others, last = comparison.targets
    for metric, title in _METRICS:
        for target in (*others, last) if metric == "recall" else (last,):
            named = f" ({target})" if target else ""
            console.print(_table(comparison, metric, title.format(k=comparison.selected) + named, target))
    console.print(_front(comparison, last))
    console.print(
        f"mean ± standard deviation over {len(comparison.seeds)} seeds; {comparison.pool} usable samples, "
        f"{comparison.selected} selected; exhaustive scoring is 1 in recall, influence and cost\n"
        f"every trial is in {out.location}/compare.csv, the means in compare.json, the plots in compare.png, "
        f"compare-front.png and their .svg",
        highlight=False,
        soft_wrap=True,
    )


def _front(comparison: Comparison, target: str) -> Table:
    """Return what recalls most for its cost, everything included."""
    table = Table(title="front: nothing else recalls as much for less", title_justify="left")
    for column in ("features", "allocator"):
        table.add_column(column)
    for column in ("budget", "cost", "of it features", "recall"):
        table.add_column(column, justify="right")
    for line in comparison.front(target):
        shares = (f"{line.cost.mean:.3f}", f"{line.features_cost:.3f}", _cell(line.recall))
        table.add_row(line.features, line.allocator, f"{line.budget:.4g}", *shares)
    return table


def _table(comparison: Comparison, metric: Metric, title: str, target: str) -> Table:
    budgets = sorted({line.budget for line in comparison.lines if line.allocator != "exhaustive"})
    groups: dict[tuple[str, str], dict[float, Line]] = {}
    for line in comparison.lines:
        if line.allocator != "exhaustive" and line.target == target:
            groups.setdefault((line.features, line.allocator), {})[line.budget] = line
    table = Table(title=title, title_justify="left")
    for column in ("features", "allocator"):
        table.add_column(column)
    for budget in budgets:
        table.add_column(f"budget {budget:.4g}", justify="right")
    last = None
    for (features, allocator), lines in groups.items():
        if last not in (None, features):
            table.add_section()
        cells = [_cell(getattr(lines[budget], metric)) for budget in budgets]
        table.add_row(features if features != last else "", allocator, *cells)
        last = features
    return table


def _cell(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.mean:.3f} ± {spread.std:.3f}"
