"""The namespace and the names under which a run's actors are found."""

import hashlib

from clusterucb.run.run_folder import RunFolder

NAMESPACE = "clusterucb"


def coordinator_name(folder: RunFolder) -> str:
    """Return the name of the coordinator of the run in this folder."""
    digest = hashlib.blake2b(folder.location.encode(), digest_size=4).hexdigest()
    return f"coordinator-{folder.name}-{digest}"
