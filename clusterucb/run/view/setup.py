"""What was asked for, in a form that may be shown: no path of the machine, only what things are called."""

import json
from typing import Any, cast

from clusterucb.config import RunConfig
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.view.model import Setup

_LOCATIONS = frozenset({"path", "base", "adapter", "moments", "model", "encoder", "tokenizer"})


def read_setup(folder: RunFolder, config: RunConfig) -> Setup:
    """Describe the configuration of a run and the versions it was started with."""
    record: dict[str, Any] = json.loads(folder.bring(folder.config_file).read_text(encoding="utf-8"))
    adapter, moments = config.model.adapter, config.model.moments
    return Setup(
        model=named(config.model.base),
        adapter=None if adapter is None else named(adapter),
        moments=None if moments is None else named(moments),
        pool=named(config.pool.path),
        target=", ".join(target.name for target in config.targets)
        if config.target is None
        else named(config.target.path),
        features=config.features.kind,
        allocator=config.search.allocator.kind,
        budget=config.search.budget,
        seed=config.seed,
        settings=_shown(config.model_dump(mode="json")),
        versions=record.get("versions", {}),
        git_sha=record.get("git_sha"),
    )


def named(location: str) -> str:
    """Return what a file, folder or URL is called; the id of a hub is a name already."""
    parts = [part for part in location.replace("\\", "/").split("/") if part]
    plain = not location.startswith(("/", ".", "~")) and "://" not in location and "\\" not in location
    hub_id = plain and len(parts) == 2 and "." not in parts[0]
    return location if hub_id or not parts else parts[-1]


def _shown(value: object, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _shown(inner, name) for name, inner in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_shown(inner, key) for inner in cast("list[object]", value)]
    return named(value) if isinstance(value, str) and key in _LOCATIONS else value
