"""Verbs for the tokens of a service: make, list, revoke. A service that runs notices at its next request."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke the tokens of a selection service.")

ServiceFile = Annotated[
    Path, typer.Option("--service", metavar="SERVICE", help="The service's YAML file, which says where tokens are.")
]


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="Whose runs they are; several tokens may share a name.")],
    service: ServiceFile,
    scope: Annotated[
        Literal["read", "submit", "admin"],
        typer.Option(help="read looks, submit also starts and stops, admin does so for everybody's runs."),
    ] = "submit",
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires; never where left out.")] = None,
) -> None:
    """Make a token and print it: the only time that it can be seen."""
    token, secret = _tokens(service).make(name, scope, days)
    until = "" if token.expires is None else f", until {token.expires:%Y-%m-%d %H:%M} UTC"
    Console(stderr=True).print(f"token {token.id} of {token.name} ({token.scope}{until}), shown only now:")
    print(secret)


@app.command(name="list")
def list_(service: ServiceFile) -> None:
    """Show every token's id, name, scope and dates."""
    table = Table("id", "name", "scope", "made", "expires")
    for token in _tokens(service).all():
        expires = "never" if token.expires is None else f"{token.expires:%Y-%m-%d %H:%M}"
        table.add_row(token.id, token.name, token.scope, f"{token.created:%Y-%m-%d %H:%M}", expires)
    Console().print(table)


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(metavar="ID|NAME", help="A token's id, or a name for all of its tokens.")],
    service: ServiceFile,
) -> None:
    """Take tokens back; requests with them are refused from the next one on."""
    for token in _tokens(service).revoke(which):
        Console().print(f"revoked token {token.id} of {token.name}", highlight=False)


def _tokens(service: Path):
    from clusterucb.settings import load_service_config
    from ray_app.service.tokens import TokenFile, tokens_path

    return TokenFile(tokens_path(load_service_config(service)))
