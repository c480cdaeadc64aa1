"""The names under which a service's actors are found: one set for each service folder."""

import hashlib
from pathlib import Path

from clusterucb.config import ServiceConfig


def service_name(config: ServiceConfig) -> str:
    """Return the name of the actor that keeps the queue."""
    return f"service-{_digest(config)}"


def keeper_name(config: ServiceConfig) -> str:
    """Return the name of the keeper of workers."""
    return f"keeper-{_digest(config)}"


def _digest(config: ServiceConfig) -> str:
    return hashlib.blake2b(str(Path(config.folder).resolve()).encode(), digest_size=4).hexdigest()
