"""The whole service from one command: Ray, Serve on loopback, the queue's actor; until it is told to stop.

Invariant: what it started is gone when it returns, and what it was computing goes on at the next start.
"""

import contextlib
import json
import logging
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, cast

import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.serve.config import HTTPOptions, ProxyLocation

from actors.names import NAMESPACE
from clusterucb.config import ServiceConfig
from clusterucb.errors import ResourceError
from ray_app.cluster import LOCAL, connected
from ray_app.service.names import service_name
from ray_app.service.ray_backend import start_service
from serve.deployment import NAME, build
from serve.manners import replica_listens

_READY_S = 900.0
_POLL_S = 0.1
_CLOSE_S = 20.0


def run(config: ServiceConfig, address: str, replicas: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called with the URL once requests are taken.

    Raises ResourceError where a Ray of this machine could not listen on the address and port.
    """
    if address == LOCAL:  # a cluster's head listens elsewhere, or does so already
        _check_port(config.host, config.port)
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with connected(address):
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            starting = threading.Thread(target=start_service, args=(config,))
            starting.start()  # beside Serve: both take seconds
            port = _other_port(config.host) if replica_listens(config) else config.port
            serve.start(http_options=HTTPOptions(host=config.host, port=port, location=ProxyLocation.HeadOnly))
            try:
                starting.join()
                serve.run(build(config, replicas), name=NAME, route_prefix="/")
                url = f"http://{config.host}:{config.port}"
                _wait(url, stop)
                if not stop.is_set():
                    ready(url)
                stop.wait()
            finally:
                serve.shutdown()
                if address == LOCAL:
                    _close(config)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_port(host: str, port: int) -> None:
    """Say now what Serve would say after its retries."""
    try:
        with _bound(host, port):
            pass
    except OSError as error:
        raise ResourceError(
            f"{host}:{port} cannot be listened on ({error.strerror}): give another --port, or end what listens there"
        ) from None


def _other_port(host: str) -> int:
    """Return a port for the proxy that Serve starts even where the replica listens itself."""
    with _bound(host, 0) as probe:
        return probe.getsockname()[1]


def _bound(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    probe = socket.socket(family, kind)
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Serve's own: an ended one's port is free at once
    try:
        probe.bind(address)
    except OSError:
        probe.close()
        raise
    return probe


def _wait(url: str, stop: threading.Event) -> None:
    """Wait until the service takes requests. Raises ResourceError where it does not come to that."""
    deadline = time.monotonic() + _READY_S
    while not stop.is_set():
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError, json.JSONDecodeError):
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
            with opener.open(f"{url}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        if time.monotonic() > deadline:
            raise ResourceError(
                f"{url}/readyz did not say ready within {_READY_S:.0f} s: another service may hold the folder; see "
                f"the logs of Ray Serve"
            )
        stop.wait(_POLL_S)


def _close(config: ServiceConfig) -> None:
    """Let go of the folder, so that the next start need not wait for the lease to run out."""
    with contextlib.suppress(ValueError, RayActorError, TimeoutError):
        actor: Any = ray.get_actor(service_name(config), namespace=NAMESPACE)
        ray.get(actor.close.remote(), timeout=_CLOSE_S)
        ray.kill(cast(ActorHandle, actor))
