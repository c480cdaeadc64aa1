"""The namespace and the names under which a run's actors are found."""

import hashlib
from pathlib import Path

NAMESPACE = "clusterucb"


def coordinator_name(folder: Path) -> str:
    """Return the name of the coordinator of the run in this folder."""
    digest = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=4).hexdigest()
    return f"coordinator-{folder.name}-{digest}"
