"""How processes that answer requests behave on a machine that computes gradients too: those come first."""

import contextlib
import gc
import os
from pathlib import Path

from starlette.middleware import Middleware

from clusterucb.config import ServiceConfig
from clusterucb.config.service import LOOPBACK

_NICE = 19
_THREADS = Path("/proc/self/task")
_GC = (20_000, 20, 20)
"""Python's default looks for cycles after every 700 new objects: a sixth of a busy replica's time."""

SETTINGS = {
    # five seconds to start are not enough for it on a busy laptop
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    # a third less processor time a request than Serve's defaults take
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_PROXY_GC_THRESHOLD": str(_GC[0]),
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}:in_proxy",
}
"""What Ray Serve reads from the environment of every process of a cluster that serves."""

_DIRECT = {
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    "RAY_SERVE_PORT_QUARANTINE_S": "0",  # the next replica takes the port over at once
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # no balancer has to notice first
}
_DIRECT_PORT = "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"
_PORTS_END = "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"
_BALANCED = "RAY_SERVE_ENABLE_HA_PROXY"


def settle(config: ServiceConfig, own_ray: bool, replicas: int) -> None:
    """Set what Ray Serve reads from the environment, as far as nobody has set it; before Ray is imported.

    One replica on a Ray of its own, on loopback, listens on the port itself: a proxy in front of it would take as much
    processor time as it does, and there is nothing to share out.
    """
    wanted = dict(SETTINGS)
    if own_ray and replicas == 1 and config.host in LOOPBACK and os.environ.get(_BALANCED, "0") == "0":
        wanted |= _DIRECT | {_DIRECT_PORT: str(config.port), _PORTS_END: str(config.port + 1)}
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


def replica_listens(config: ServiceConfig) -> bool:
    """Whether the replica has the service's port, as `settle` left it."""
    direct = {**_DIRECT, _DIRECT_PORT: str(config.port)}
    return all(os.environ.get(name) == value for name, value in direct.items())


def step_back() -> None:
    """Have this process give way to others, and look for cycles less often."""
    with contextlib.suppress(OSError):
        for thread in _THREADS.iterdir():  # Linux has a nice value for each, and new threads take their maker's
            os.setpriority(os.PRIO_PROCESS, int(thread.name), _NICE)
    gc.set_threshold(*_GC)


def in_proxy() -> list[Middleware]:
    """Return no middlewares: Serve asks for them in its proxy's process, at its start."""
    step_back()
    return []
