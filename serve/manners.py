"""How processes that answer requests behave on a machine that computes gradients too: those come first."""

import contextlib
import gc
import os
from pathlib import Path

from starlette.middleware import Middleware

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
