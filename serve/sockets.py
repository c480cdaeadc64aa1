"""The sockets of a Serve replica, where Serve has no setting for them: what opens them is wrapped, by its private name.

A Ray that opens them in another way is said in the log, and `tests/serve/test_on_ray.py` fails with it.
"""

import logging
from collections.abc import Callable
from typing import Any

from ray.serve._private import replica

from clusterucb.config.service import LOOPBACK

_log = logging.getLogger(__name__)


def settle_sockets(local: bool) -> None:
    """To be called before a replica opens any, as in its deployment's constructor.

    A replica that listens itself may take the port of one that was killed, whose connections linger for a minute. On a
    `local` Ray the port between processes is on loopback, as all else; Serve would bind every interface (calls there
    have to bring Ray's token).
    """

    def on_a_used_port(start: Callable[..., Any]) -> Callable[..., Any]:
        return lambda app, options, **more: start(app, options, **more | {"enable_so_reuseport": True})

    def on_loopback(listen: Callable[..., Any]) -> Callable[..., Any]:
        return lambda server, address: listen(server, address.replace("[::]", LOOPBACK[0]))

    _wrap("start_asgi_http_server", on_a_used_port)
    if local:
        _wrap("add_port_to_grpc_server", on_loopback)


def _wrap(name: str, wrapped: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    if hasattr(replica, name):
        setattr(replica, name, wrapped(getattr(replica, name)))
    else:
        _log.warning("this Ray Serve has no %s: its ports may be on every interface, or taken after a crash", name)
