"""From a request to the run configuration that it means, with the service's catalogue.

Invariant: the same request, catalogue and uploaded targets give the same `RunConfig`; whatever names a file in it comes
from the catalogue or from the shelf.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from clusterucb.config import (
    Audit,
    Checkpoint,
    Exhaustive,
    Features,
    RunConfig,
    Search,
    Section,
    Selection,
    ServiceConfig,
    SeveralFeatures,
    Target,
    Tokens,
)
from clusterucb.errors import ConfigError
from clusterucb.settings import build_config
from ray_app.service.refusals import InvalidRequest
from ray_app.service.requests import (
    AskedFeatures,
    AskedGates,
    AskedSeveralFeatures,
    InlineTarget,
    NamedFeatures,
    ScoreRequest,
    SelectionRequest,
)
from ray_app.service.shelf import Shelf

_T = TypeVar("_T")
_OF_THE_CATALOGUE = {"description"}


def resolve_selection(request: SelectionRequest, owner: str, service: ServiceConfig, shelf: Shelf) -> RunConfig:
    """Return what a selection computes. Raises InvalidRequest, naming the field."""
    _check_open(request, service)
    pool = _named(service.catalogue.pools, request.pool, "pool")
    checkpoint = _checkpoint(request.checkpoint, service)
    tree = {
        "pool": pool.model_dump(mode="json", exclude=_OF_THE_CATALOGUE),
        **_common(checkpoint, request.tokens, service),
        **_targets(request, owner, service, shelf),
        "gates": _gates(request.gates, service),
        "features": _features(request.features, checkpoint, service).model_dump(mode="json"),
        "clusters": request.clusters.model_dump(mode="json"),
        "search": request.search.model_dump(mode="json"),
        "selection": request.selection.model_dump(mode="json"),
        "audit": request.audit.model_dump(mode="json"),
        "seed": request.seed,
    }
    return _built(tree)


def resolve_scoring(request: ScoreRequest, rows: str, owner: str, service: ServiceConfig, shelf: Shelf) -> RunConfig:
    """Return the selection over exactly `rows`, a file of them, in which everything is scored and selected."""
    _check_open(request, service)
    checkpoint = _checkpoint(request.checkpoint, service)
    tree = {
        "pool": {"path": rows, "format": "jsonl"},
        **_common(checkpoint, request.tokens, service),
        "target": _told(_target(request.target, owner, service, shelf)),
        "search": Search(allocator=Exhaustive()).model_dump(mode="json"),
        "selection": Selection(share=1.0).model_dump(mode="json"),
        "audit": Audit(samples=0).model_dump(mode="json"),
    }
    return _built(tree)


def target_name(request: SelectionRequest, config: RunConfig) -> str:
    """Return what a record calls the target: its name, or the digest of the rows that were sent along; of several
    targets all names."""
    if config.target is None:
        return ", ".join(target.name for target in config.targets)
    return request.target if isinstance(request.target, str) else f"inline:{Path(config.target.path).stem}"


def _common(checkpoint: Checkpoint, tokens: Tokens | None, service: ServiceConfig) -> dict[str, Any]:
    return {
        "model": checkpoint.model.model_dump(mode="json"),
        "gradients": checkpoint.gradients.model_dump(mode="json"),
        "tokens": _over(checkpoint.tokens, tokens),
        "workers": service.workers.model_dump(mode="json"),
    }


def _over(ours: Section, asked: Section | None) -> dict[str, Any]:
    """Put the settings that were asked for over the checkpoint's."""
    return ours.model_dump(mode="json") | ({} if asked is None else asked.model_dump(mode="json", exclude_unset=True))


def _check_open(request: Section, service: ServiceConfig) -> None:
    sections = {"tokens", "gates", "features", "clusters", "search", "selection", "audit", "seed"}
    for name in sorted(sections & request.model_fields_set - set(service.may_set)):
        raise InvalidRequest(
            f"{name} cannot be set by requests to this service: leave it out (open are {', '.join(service.may_set)})",
            name,
        )


def _checkpoint(name: str, service: ServiceConfig) -> Checkpoint:
    return _named(service.catalogue.checkpoints, name, "checkpoint")


def _named(known: Mapping[str, _T], name: str, field: str) -> _T:
    if name not in known:
        raise InvalidRequest(f"{field} is {name!r}, which this service does not have: {_choices(known)}", field)
    return known[name]


def _choices(known: Mapping[str, object]) -> str:
    return f"it has {', '.join(sorted(known))}" if known else "it has none"


def _target(
    asked: str | InlineTarget, owner: str, service: ServiceConfig, shelf: Shelf, field: str = "target"
) -> Target:
    if isinstance(asked, InlineTarget):
        return shelf.keep_rows(asked, "target.rows" if field == "target" else field)
    if asked in service.catalogue.targets:
        return service.catalogue.targets[asked]
    found = shelf.find(owner, asked)
    if found is None:
        raise InvalidRequest(
            f"{field} is {asked!r}, which is neither in the catalogue ({_choices(service.catalogue.targets)}) nor "
            f"uploaded with this token: name another, upload it, or send its rows",
            field,
        )
    return found


def _targets(request: SelectionRequest, owner: str, service: ServiceConfig, shelf: Shelf) -> dict[str, Any]:
    """Return the target, or the targets, as a run configuration has them."""
    if request.target is not None:
        return {"target": _told(_target(request.target, owner, service, shelf))}
    named: list[dict[str, Any]] = []
    for i, asked in enumerate(request.targets):
        wanted = asked.name if asked.rows is None else InlineTarget(rows=asked.rows, subtask_field=asked.subtask_field)
        found = _target(wanted, owner, service, shelf, f"targets.{i}.{'name' if asked.rows is None else 'rows'}")
        named.append(_told(found) | {"name": asked.name, "weight": asked.weight})
    return {"targets": named}


def _told(target: Target) -> dict[str, Any]:
    return target.model_dump(mode="json", exclude=_OF_THE_CATALOGUE)


def _gates(asked: AskedGates, service: ServiceConfig) -> dict[str, Any]:
    sets = [
        _named(service.catalogue.held_out, name, f"gates.held_out.sets.{i}")
        for i, name in enumerate(asked.held_out.sets)
    ]
    tree = asked.model_dump(mode="json")
    return tree | {"held_out": tree["held_out"] | {"sets": [rows.model_dump(mode="json") for rows in sets]}}


def _features(asked: AskedFeatures | None, checkpoint: Checkpoint, service: ServiceConfig) -> Section:
    if asked is None:
        return checkpoint.features
    if isinstance(asked, NamedFeatures):
        return _named_features(asked, "features.name", service)
    if not isinstance(asked, AskedSeveralFeatures):
        return asked
    parts = [
        _named_features(part, f"features.parts.{i}.name", service) if isinstance(part, NamedFeatures) else part
        for i, part in enumerate(asked.parts)
    ]
    for i, part in enumerate(parts):
        if part.kind == "several":
            raise InvalidRequest(
                f"features.parts.{i} names several features side by side: name them one by one, or take them alone",
                f"features.parts.{i}.name",
            )
    return SeveralFeatures.model_validate({"parts": [part.model_dump() for part in parts]})


def _named_features(asked: NamedFeatures, field: str, service: ServiceConfig) -> Features:
    return _named(service.catalogue.features, asked.name, field)


def _built(tree: dict[str, Any]) -> RunConfig:
    try:
        return build_config(tree)
    except ConfigError as error:
        message = str(error)
        key = message.split(" ", 1)[0]
        raise InvalidRequest(message, key if "." in key else "") from None
