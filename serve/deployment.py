"""The service on Ray Serve: replicas that hold no state, in front of the one actor that keeps the queue.

    serve run serve.deployment:app config=service.yaml      # beside a cluster that runs
    serve deploy cluster_configs/serve.yaml                 # the same, declared

Invariants: only this file, `laptop.py` and `sockets.py` import `ray.serve`; a replica can be killed, added or replaced
at any time, since what it shows is in the service's folder. Annotations here must not be postponed: Serve reads
`Arguments` there.
"""

from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.exceptions import TaskCancelledError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterucb.config import ServiceConfig
from clusterucb.config.service import LOOPBACK
from clusterucb.settings import load_service_config
from ray_app.service.ray_backend import RayBackend, start_service
from ray_app.service.tokens import TokenFile, tokens_path
from serve.app import create_app
from serve.manners import step_back
from serve.sockets import settle_sockets

NAME = "clusterucb"
_MOST_ONGOING = 640
"""Requests at a replica; every watcher is one for as long as it watches."""


class Arguments(BaseModel):
    """What `serve run` and `args:` give."""

    model_config = ConfigDict(extra="forbid")

    config: Path
    """The service's YAML file, on every node."""
    set: tuple[str, ...] = ()
    """Overrides, `limits.active_runs=4`."""


class HeardDisconnects:
    """ASGI middleware: that a client has gone is told as ASGI tells it, where Serve raises an error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""

        async def heard() -> Message:
            try:
                return await receive()
            except TaskCancelledError:
                return {"type": "http.disconnect"}

        await self._app(scope, heard, send)


@serve.deployment(
    name="Api",
    max_ongoing_requests=_MOST_ONGOING,
    max_queued_requests=2 * _MOST_ONGOING,
    health_check_period_s=10,
    graceful_shutdown_timeout_s=15,
    ray_actor_options={"num_cpus": 0},
)
@serve.ingress()
class Api:
    """One replica. At its end Serve lets requests finish for a while; watchers are cut off, and go on at another."""

    def __init__(self, config: ServiceConfig) -> None:
        step_back()
        settle_sockets(ray.util.get_node_ip_address() in LOOPBACK)
        self._config = config
        start_service(config)
        self._backend = RayBackend(config)

    def __serve_build_asgi_app__(self) -> Any:
        """Return the application; Serve asks once, in the replica."""
        application = create_app(self._config, self._backend, TokenFile(tokens_path(self._config)))
        application.add_middleware(HeardDisconnects)
        return application


def build(config: ServiceConfig, replicas: int | None = None) -> serve.Application:
    """Return the application for a configuration that is at hand."""
    deployment = Api if replicas is None else Api.options(num_replicas=replicas)
    return deployment.bind(config)


def app(arguments: Arguments) -> serve.Application:
    """Return the application, as `serve run` and `serve deploy` call it."""
    return build(load_service_config(arguments.config, arguments.set))
