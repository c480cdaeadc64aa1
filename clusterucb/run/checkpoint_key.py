"""What a worker's answers depend on beside the task: the key by which runs may share workers.

Invariant: two configurations with one key make workers that answer alike; files that change in place change the key.
"""

import hashlib
import json
from pathlib import Path

from clusterucb.config import RunConfig


def checkpoint_key(config: RunConfig) -> str:
    """Return the key of model, gradients and seed, and of the files on this machine that they name."""
    names = (config.model.base, config.model.adapter, config.model.moments)
    parts = {
        "model": config.model.model_dump(mode="json"),
        "gradients": config.gradients.model_dump(mode="json"),
        "seed": config.seed,
        "files": [_files(Path(name)) for name in names if name is not None],
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of the files at a path; none where it names something on a hub."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return [(str(each.relative_to(path)), each.stat().st_size, each.stat().st_mtime_ns) for each in files]
