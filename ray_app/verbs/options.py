"""Arguments and options that verbs share."""

from pathlib import Path
from typing import Annotated

import typer

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
