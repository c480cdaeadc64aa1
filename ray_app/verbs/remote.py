"""Verbs that speak to a selection service: `clusterucb remote --server URL VERB`.

They know names of the service's catalogue where the local verbs know paths; rows that are sent along come from a file.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from clusterucb.errors import ConfigError
from ray_app.verbs.options import Json, Set

if TYPE_CHECKING:
    from ray_app.client import Client, Run

app = typer.Typer(no_args_is_help=True, help="Speak to a selection service; see docs/service.md.")

RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id; `list` shows them.")]
Pool = Annotated[str, typer.Option(help="A pool of the service; `catalogue` lists them.")]
Checkpoint = Annotated[str, typer.Option(help="A checkpoint of the service.")]
Target = Annotated[str, typer.Option(help="A target of the service, or a file of examples to send along.")]
Targets = Annotated[
    list[str],
    typer.Option(
        "--target",
        metavar="TARGET",
        help="A target of the service, or a file of examples to send along; again for each of several targets that "
        "share the budget (NAME=FILE gives examples a name).",
    ),
]
Weights = Annotated[
    list[str] | None, typer.Option("--weight", metavar="TARGET=WEIGHT", help="A target's part, against the others'.")
]
OneTarget = Annotated[str | None, typer.Option("--target", help="Of several targets, this one's own selection.")]
Subtasks = Annotated[str | None, typer.Option(help="Field of the examples that groups them in subtasks.")]
Budget = Annotated[float | None, typer.Option(help="Share of the pool that may be scored.")]
Share = Annotated[float | None, typer.Option(help="Share of the pool to select.")]
Count = Annotated[int | None, typer.Option(help="Samples to select.")]


@app.callback()
def connect(
    context: typer.Context,
    server: Annotated[
        str | None, typer.Option(envvar="CLUSTERUCB_SERVER", help="The service, such as http://127.0.0.1:8080.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="CLUSTERUCB_TOKEN", help="Better in the environment: others see a command line."),
    ] = None,
) -> None:
    """Speak to a selection service; see docs/service.md."""
    context.obj = (server, token)


@app.command()
def select(
    context: typer.Context,
    pool: Pool,
    checkpoint: Checkpoint,
    target: Targets,
    weight: Weights = None,
    subtask_field: Subtasks = None,
    budget: Budget = None,
    share: Share = None,
    count: Count = None,
    label: Annotated[str, typer.Option(help="What to call the run.")] = "",
    set_: Set = None,
    out: Annotated[Path | None, typer.Option(help="Write the selected rows here once the run is finished.")] = None,
    follow: Annotated[bool, typer.Option(help="Show progress until the run is over.")] = True,
    json: Json = False,
) -> None:
    """Start a selection and follow it. Ctrl-C stops following, not the run."""
    wanted = _wanted(pool, checkpoint, target, weight, subtask_field, budget, share, count, set_)
    with _client(context) as client:
        run = client.select(label=label, **wanted)
        if follow or out is not None:
            _follow(run, json)
            if out is not None:
                run.download(out)
        _show(run, json)


@app.command()
def plan(
    context: typer.Context,
    pool: Pool,
    checkpoint: Checkpoint,
    target: Targets,
    weight: Weights = None,
    subtask_field: Subtasks = None,
    budget: Budget = None,
    share: Share = None,
    count: Count = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Say what a selection would cost."""
    wanted = _wanted(pool, checkpoint, target, weight, subtask_field, budget, share, count, set_)
    with _client(context) as client:
        found = client.plan(**wanted)
    if json:
        print(found.model_dump_json())
        return
    seconds = "" if found.wall_seconds is None else f", about {found.wall_seconds:.0f} s"
    Console().print(
        f"{found.gradients} gradients ({found.share_of_exhaustive_gradients:.0%} of scoring everything) over "
        f"{found.pool.usable} samples and {found.target.usable} examples, in {found.rounds} rounds{seconds}; "
        f"{found.selected} are selected",
        highlight=False,
    )
    for note in found.notes:
        Console().print(f"note: {note}", style="yellow", highlight=False, markup=False)


@app.command()
def score(
    context: typer.Context,
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="The rows to score: JSON lines or Parquet.")],
    checkpoint: Checkpoint,
    target: Target,
    json: Json = False,
) -> None:
    """Say how much training on given rows would help, best first."""
    with _client(context) as client:
        found = client.score(_rows(rows), checkpoint=checkpoint, target=_target(target))
    if json:
        print(found.model_dump_json())
        return
    table = Table("rank", "influence", "subtask", "loss", "id")
    for row in found.scores:
        table.add_row(str(row.rank), f"{row.influence:.4f}", row.subtask, f"{row.loss:.3f}", row.id)
    Console().print(table)
    for reason, left_out in found.excluded.items():
        Console().print(f"{left_out} left out: {reason}", highlight=False)


@app.command(name="list")
def list_(
    context: typer.Context,
    status: Annotated[
        Literal["queued", "running", "finished", "failed", "cancelled"] | None, typer.Option(help="Only these.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 20,
    json: Json = False,
) -> None:
    """List runs, the newest first."""
    table = Table("id", "status", "pool", "target", "owner", "created", "label")
    with _client(context) as client:
        for i, run in enumerate(client.runs(status=status)):
            if i == limit:
                break
            if json:
                print(run.record.model_dump_json())
            said = run.record
            created = f"{said.created:%Y-%m-%d %H:%M}"
            table.add_row(said.id, said.status, said.pool, said.target, said.owner, created, said.label)
    if not json:
        Console().print(table)


@app.command()
def status(context: typer.Context, run: RunId, json: Json = False) -> None:
    """Say how far a run is."""
    with _client(context) as client:
        _show(client.run(run), json)


@app.command()
def watch(context: typer.Context, run: RunId, json: Json = False) -> None:
    """Follow a run until it is over."""
    with _client(context) as client:
        found = client.run(run)
        _follow(found, json)
        _show(found, json)


@app.command()
def cancel(context: typer.Context, run: RunId) -> None:
    """Stop a run."""
    with _client(context) as client:
        found = client.run(run).cancel()
    Console().print(f"{found.id}: {found.record.status}; it stops within seconds", highlight=False)


@app.command()
def result(
    context: typer.Context,
    run: RunId,
    out: Annotated[Path | None, typer.Option(help="File to write; JSON lines go to the terminal without it.")] = None,
    format: Annotated[
        Literal["jsonl", "parquet"], typer.Option(help="jsonl: the selected rows; parquet: everything scored.")
    ] = "jsonl",
    first: Annotated[int | None, typer.Option(min=1, help="First rank.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Last rank.")] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Print id, rank and influence only.")] = False,
    target: OneTarget = None,
) -> None:
    """Fetch the result of a finished run."""
    import json

    if out is None and format == "parquet":
        raise ConfigError("a Parquet file does not go to a terminal: name a file with --out")
    if out is not None and (ids or first or last):
        raise ConfigError("--out writes the whole result: leave it out to print --ids or ranks")
    with _client(context) as client:
        found = client.run(run)
        if out is not None:
            Console().print(f"wrote {found.download(out, format, target)}", highlight=False)
            return
        for row in (found.ids if ids else found.rows)(first, last, target):
            print(json.dumps(row, ensure_ascii=False))


@app.command()
def catalogue(context: typer.Context) -> None:
    """List what selections may name: pools, checkpoints, targets."""
    with _client(context) as client:
        for kind in ("pools", "checkpoints", "targets"):
            table = Table(kind, "description")
            for entry in client.catalogue(kind):
                table.add_row(entry["name"], entry["description"])
            Console().print(table)


@app.command()
def upload(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The target's name.")],
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="The examples: JSON lines or Parquet.")],
    subtask_field: Subtasks = None,
    description: Annotated[str, typer.Option(help="What it is.")] = "",
) -> None:
    """Keep a target under a name, for selections to come."""
    with _client(context) as client:
        kept = client.upload_target(name, _rows(rows), subtask_field=subtask_field, description=description)
    Console().print(f"kept {kept.name}: {kept.rows} rows", highlight=False)


def _client(context: typer.Context) -> "Client":
    from ray_app.client import Client

    server, token = context.obj
    return Client(server, token)


def _wanted(
    pool: str,
    checkpoint: str,
    targets: list[str],
    weights: list[str] | None,
    subtask_field: str | None,
    budget: float | None,
    share: float | None,
    count: int | None,
    set_: list[str] | None,
) -> Any:
    """Return the arguments of `Client.select`, checked here as far as can be."""
    from clusterucb.settings import overridden
    from ray_app.service.requests import SelectionRequest

    sections = overridden({}, set_ or (), SelectionRequest)
    names = {"pool": pool, "checkpoint": checkpoint}
    if len(targets) == 1 and not weights and "=" not in targets[0]:
        names |= {"target": _target(targets[0]), "subtask_field": subtask_field}
    else:
        names |= {"targets": _several(targets, weights or [], subtask_field)}
    return {**sections, **names, "budget": budget, "share": share, "count": count}


def _target(target: str) -> str | list[dict[str, Any]]:
    return _rows(Path(target)) if Path(target).suffix and Path(target).is_file() else target


def _several(targets: list[str], weights: list[str], subtask_field: str | None) -> list[dict[str, Any]]:
    """Return several targets as a request has them."""
    asked: dict[str, dict[str, Any]] = {}
    for target in targets:
        name, named, file = target.partition("=")
        given = _target(file if named else target)
        if named and isinstance(given, str):
            raise ConfigError(f"--target {target}: there is no file {file}: give JSON lines or Parquet")
        name = name if named or isinstance(given, str) else Path(target).stem
        if name in asked:
            raise ConfigError(f"--target {name} is there twice: give one of them another name, as NAME=FILE")
        rows = {} if isinstance(given, str) else {"rows": given}
        grouped = {"subtask_field": subtask_field} if rows and subtask_field is not None else {}
        asked[name] = {"name": name, **rows, **grouped}
    for weight in weights:
        name, _, number = weight.partition("=")
        if name not in asked:
            raise ConfigError(f"--weight {weight}: no --target is called {name}; there are {', '.join(asked)}")
        try:
            asked[name]["weight"] = float(number)
        except ValueError:
            raise ConfigError(f"--weight {weight}: {number!r} is no number: write {name}=2") from None
    return list(asked.values())


def _rows(path: Path) -> list[dict[str, Any]]:
    from clusterucb.config import Rows
    from clusterucb.data.rows import read_rows

    reader = read_rows(Rows(path=str(path)))
    return list(reader.raw(range(len(reader))))


def _follow(run: "Run", json: bool) -> None:
    from ray_app.views import view_of

    view = view_of("json" if json else "bar")
    with view:
        run.wait(view)


def _show(run: "Run", json: bool) -> None:
    said = run.record
    if json:
        print(said.model_dump_json())
        return
    lines = [
        f"{said.id}: {said.status}" + ("" if said.queue_position is None else f", {said.queue_position} before it")
    ]
    lines += [f"  {stage.stage:<9} {stage.done} of {stage.total}" for stage in said.stages]
    if said.outcome is not None:
        lines.append(f"  {said.outcome.selected} selected of {said.outcome.scored} scored of {said.outcome.pool}")
    if said.gradients is not None:
        lines.append(f"  {said.gradients.computed} gradients computed, {said.gradients.reused} reused")
    if said.error:
        lines.append(f"  {said.error}")
    Console().print("\n".join(lines), highlight=False, markup=False)
