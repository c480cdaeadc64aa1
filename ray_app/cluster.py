"""Connecting to Ray: a local one for this run, or a cluster that is there.

Invariant: a local Ray listens on loopback only, and is gone with the driver.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from clusterucb.errors import ResourceError

_LOOPBACK = "127.0.0.1"
_STORE_BYTES = 512 * 2**20
_LOCAL_ENVIRONMENT = {
    # Ray's switch for "this is one machine": without it Ray binds every interface, whatever address it is given.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connect to `address` (`local`, `auto`, host:port); none means RAY_ADDRESS where it is set, else a local Ray."""
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    for name, value in _LOCAL_ENVIRONMENT.items() if where == "local" else ():
        os.environ.setdefault(name, value)
    import ray

    from actors.names import NAMESPACE

    quiet = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if where == "local":
            os.environ.pop("RAY_ADDRESS", None)
            ray.init(
                _node_ip_address=_LOOPBACK,
                include_dashboard=False,
                num_cpus=os.cpu_count(),
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=where, **quiet)
    except ConnectionError as error:
        raise ResourceError(
            f"no Ray cluster answers at {where}: start one with `ray start --head`, give --address, or leave it out "
            f"for a local Ray ({' '.join(str(error).split())[:200]})"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()
