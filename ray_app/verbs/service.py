"""The verb that serves: a selection service on this machine, or in front of a cluster."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clusterucb.errors import ConfigError
from ray_app.verbs.options import Address, Set

_ROOT = Path(__file__).resolve().parents[2]
_DEMO = Path("cluster_configs") / "services" / "demo.yaml"
_MATERIAL = (
    (Path(".cache") / "SmolLM2-135M-Instruct" / "config.json", "fetch_model.py"),
    (Path(".cache") / "demo" / "pool.jsonl", "build_pool.py"),
)


def serve(
    config: Annotated[
        Path | None, typer.Argument(metavar="[SERVICE]", help="The service's YAML file; may be left out with --demo.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Bring the demo's model and pool, and serve them.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on; the configuration's where left out.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; the configuration's where left out.")] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Processes that answer requests.")] = 1,
    set_: Set = None,
    address: Address = None,
) -> None:
    """Serve selections over HTTP until Ctrl-C; runs that are cut off go on at the next start."""
    from clusterucb.settings import load_service_config
    from ray_app.cluster import LOCAL, choose_address

    if demo == (config is not None):
        raise ConfigError("serve needs one of SERVICE, the service's YAML file, and --demo")
    asked = [f"{name}={value}" for name, value in (("host", host), ("port", port)) if value is not None]
    if demo:
        _bring_demo()
        os.chdir(_ROOT)  # what its file's paths are relative to
    loaded = load_service_config(config or _DEMO, [*(set_ or ()), *asked])
    where = choose_address(address)  # before Ray is imported
    # The HTTP room imports this one, so that its modules are named, not imported, here.
    importlib.import_module("serve.manners").settle(loaded, where == LOCAL, replicas)
    from ray_app.quiet import quieten_libraries
    from ray_app.service.tokens import TokenFile, tokens_path

    quieten_libraries()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    tokens = TokenFile(tokens_path(loaded))
    if not tokens.all():
        _, secret = tokens.make("admin", "admin")
        console.print("a token for the name admin, shown only now; `clusterucb token make` makes others:")
        print(secret, flush=True)
    run = importlib.import_module("serve.laptop").run
    run(loaded, where, replicas, lambda url: console.print(f"ready: {url} (Ctrl-C stops)"))
    console.print("stopped; runs that were not over go on at the next start")


def _bring_demo() -> None:
    """Bring what the demo's catalogue names, unless it is there."""
    scripts = _ROOT / "examples"
    if not scripts.is_dir():
        raise ConfigError(
            f"--demo needs the examples of the repository, which are not at {scripts}: clone it, or give SERVICE"
        )
    for there, script in _MATERIAL:
        if not (_ROOT / there).exists():
            Console(stderr=True).print(f"building {there.parent} ...")
            subprocess.run(
                [sys.executable, str(scripts / script), "--out", str((_ROOT / there).parent)], check=True, cwd=_ROOT
            )
