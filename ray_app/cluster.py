"""Connecting to Ray: a local one for this run, or a cluster that is there.

Invariant: a local Ray listens on loopback only, and is gone with the driver. Ray reads the switch for that when it is
imported, so `choose_address` comes before anything that imports Ray; this module itself imports it late.
"""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from clusterucb.errors import ResourceError

LOCAL = "local"
_LOOPBACK = "127.0.0.1"
_LOOPBACK_NAMES = (_LOOPBACK, "localhost")
_PROBE_S = 10.0
_STORE_BYTES = 512 * 2**20
_LOCAL_ENVIRONMENT = {
    # Ray's switch for "this is one machine": without it Ray binds every interface, whatever address it is given.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def choose_address(address: str | None) -> str:
    """Settle where to run: what is asked for, else RAY_ADDRESS, else a local Ray, whose environment is set here."""
    where = address or os.environ.get("RAY_ADDRESS") or LOCAL
    if where == LOCAL:
        os.environ.pop("RAY_ADDRESS", None)
        os.environ.update(_LOCAL_ENVIRONMENT)
    else:
        host, _, port = where.rpartition(":")
        if host in _LOOPBACK_NAMES and port.isdecimal() and not _answers_outside(int(port)):
            os.environ.update(_LOCAL_ENVIRONMENT)  # or Ray would look for the head at the machine's other address
    return where


def _answers_outside(port: int) -> bool:
    """Whether what listens on a port of this machine does so beyond loopback too."""
    outside = outside_address()
    if outside is None:
        return False
    try:
        socket.create_connection((outside, port), _PROBE_S).close()
    except (OSError, OverflowError):
        return False
    return True


def outside_address() -> str | None:
    """Return this machine's address towards others; none where it has no network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks for the route
        except OSError:
            return None
        return probe.getsockname()[0]


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to what `choose_address` returned, and disconnect at the end; a process that is connected stays so."""
    import ray

    from actors.names import NAMESPACE

    if ray.is_initialized():
        yield
        return
    _probe(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address == LOCAL:
            ray.init(
                LOCAL,  # or Ray would join a cluster that happens to run on this machine
                _node_ip_address=_LOOPBACK,
                include_dashboard=False,
                num_cpus=os.cpu_count(),
                object_store_memory=_STORE_BYTES,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise _no_answer(address, error) from None
    except ValueError as error:
        if address == LOCAL:
            raise
        raise ResourceError(
            f"--address {address} is no address ({' '.join(str(error).split())[:200]}): give local, auto or host:port"
        ) from None
    if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end this process before the run is told to stop
    try:
        yield
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    """Knock once where a port is named: Ray itself would knock for minutes, and complain on standard error."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_S).close()
    except (OSError, OverflowError) as error:
        raise _no_answer(address, error) from None


def _no_answer(address: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"no Ray cluster answers at {address}: start one with `ray start --head`, give --address, or leave it out "
        f"for a local Ray ({' '.join(str(error).split())[:200]})"
    )
