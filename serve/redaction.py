"""Paths of the service's machine, taken out of texts that are told: errors, notes, events.

Invariant: no path or hub id of the configuration leaves the service; the catalogue's name stands in its place.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from clusterucb.config import Features, ServiceConfig

Redact = Callable[[str], str]


def redaction(config: ServiceConfig) -> Redact:
    """Return what takes this service's paths out of a text, JSON or plain."""
    names = {path: name for path, name in _paths(config) if len(path) > 1}
    names |= {json.dumps(path)[1:-1]: name for path, name in names.items()}
    pattern = re.compile("|".join(re.escape(path) for path in sorted(names, key=len, reverse=True)))
    return lambda text: pattern.sub(lambda found: names[found[0]], text)


def _paths(config: ServiceConfig) -> Iterator[tuple[str, str]]:
    known = config.catalogue
    for where in (config.folder, config.tokens_file, config.sketches.path):
        if where is not None:
            yield where, "<service>"
    yield str(Path.home()), "<home>"
    for name, rows in (*known.pools.items(), *known.targets.items(), *known.held_out.items()):
        yield rows.path, f"<{name}>"
    for name, checkpoint in known.checkpoints.items():
        for path in (checkpoint.model.base, checkpoint.model.adapter, checkpoint.model.moments):
            if path is not None:
                yield path, f"<{name}>"
        yield from ((path, f"<{name}>") for path in _feature_paths(checkpoint.features))
    for name, features in known.features.items():
        yield from ((path, f"<{name}>") for path in _feature_paths(features))


def _feature_paths(features: Features) -> Iterator[str]:
    parts = features.parts if features.kind == "several" else (features,)
    for part in parts:
        for name in ("path", "base", "adapter", "encoder"):
            if path := getattr(part, name, None):
                yield path
