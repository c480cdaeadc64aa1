"""A Ray of a test's own, on loopback."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def small_ray(num_cpus: int) -> Iterator[None]:
    """Start a local Ray and end it with the block."""
    ray.init(
        "local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=num_cpus, object_store_memory=2**28,
        namespace="clusterucb", log_to_driver=False,
    )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()
