"""A service on a port of loopback, in a thread of this process: the application as it is, behind a real server."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import uvicorn
from selection_cases import small_selection, write_rows
from service_in_process import InProcessBackend
from starlette.types import ASGIApp

from clusterucb.config import ServiceConfig
from clusterucb.settings import build_service_config
from ray_app.service.tokens import TokenFile, tokens_path
from serve.app import create_app


@dataclass(frozen=True)
class LiveService:
    """A running service and its tokens."""

    url: str
    port: int
    config: ServiceConfig
    backend: InProcessBackend
    tokens: TokenFile
    secrets: dict[str, str]

    def http(self, who: str | None = "ann") -> httpx2.Client:
        """Return a client with a token."""
        headers = {} if who is None else {"Authorization": f"Bearer {self.secrets[who]}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)


def service_config(
    folder: Path, names: tuple[str, str, str] = ("mixed", "tiny", "sums"), **more: object
) -> ServiceConfig:
    """Write a tiny model, a pool and targets; return a service that knows pool, checkpoint and target by `names`."""
    settings = small_selection(folder)
    other = write_rows(folder / "birds.jsonl", 8, ["birds"], seed=3)
    catalogue = {
        "pools": {names[0]: settings["pool"]},
        "checkpoints": {
            names[1]: {"model": settings["model"], "gradients": settings["gradients"], "tokens": settings["tokens"]}
        },
        "targets": {names[2]: settings["target"], "birds": {"path": str(other)}},
    }
    return build_service_config({"catalogue": catalogue, "folder": str(folder / "service"), **more})


@contextmanager
def live_service(
    config: ServiceConfig, hold: bool = False, wrap: Callable[[ASGIApp], ASGIApp] = lambda app: app
) -> Generator[LiveService]:
    """Serve until the block ends, with a token each for ann and bob (submit), eve (read) and root (admin).

    `wrap` puts something between the network and the application.
    """
    tokens = TokenFile(tokens_path(config))
    scopes = {"ann": "submit", "bob": "submit", "eve": "read", "root": "admin"}
    secrets = {name: tokens.make(name, scope)[1] for name, scope in scopes.items()}
    backend = InProcessBackend(config, hold)
    app = wrap(create_app(config, backend, tokens))
    settings = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", ws="none", lifespan="off")
    server = uvicorn.Server(settings)
    socket = server.config.bind_socket()
    socket.listen()  # so that who is faster than the server's thread waits for it
    port = socket.getsockname()[1]
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    try:
        yield LiveService(f"http://127.0.0.1:{port}", port, config, backend, tokens, secrets)
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
        backend.close()
