"""From text to a `RunConfig` or a `ServiceConfig`: YAML, then `--set a.b=c`, then the schema.

Invariant: every mistake becomes one `ConfigError` line that names the key as the user wrote it, the value, and the
nearest valid key or value.
"""

import difflib
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from clusterucb.config import (
    EmbeddingFeatures,
    Evaluation,
    Feature,
    Features,
    GradientFeatures,
    Model,
    ProxyFeatures,
    Rows,
    RunConfig,
    ServiceConfig,
)
from clusterucb.errors import ConfigError

Tree = dict[str, Any]
_Root = typing.TypeVar("_Root", RunConfig, ServiceConfig)
_Rows = typing.TypeVar("_Rows", bound=Rows)


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `a.b=c` overrides and validate; local paths come back absolute."""
    return build_config(_read(path), overrides)


def load_service_config(path: Path, overrides: Sequence[str] = ()) -> ServiceConfig:
    """Read a service's YAML file as `load_config` reads a run's."""
    return build_service_config(_read(path), overrides)


def _read(path: Path) -> Tree:
    if not path.is_file():
        raise ConfigError(f"configuration {path} does not exist: give the path of a YAML file")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not readable YAML: {_one_line(str(error))}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"configuration {path} holds no mapping: start from an example in cluster_configs")
    return typing.cast(Tree, tree)


def build_config(tree: Tree, overrides: Sequence[str] = ()) -> RunConfig:
    """Apply overrides to a parsed tree and validate it."""
    return _with_absolute_paths(_validated(RunConfig, tree, overrides))


def build_service_config(tree: Tree, overrides: Sequence[str] = ()) -> ServiceConfig:
    """Apply overrides to a service's parsed tree and validate it; local paths come back absolute."""
    config = _validated(ServiceConfig, tree, overrides)
    known = config.catalogue
    catalogue = known.model_copy(
        update={
            "pools": {name: _rows_moved(pool) for name, pool in known.pools.items()},
            "targets": {name: _rows_moved(target) for name, target in known.targets.items()},
            "features": {name: _features_moved(features) for name, features in known.features.items()},
            "checkpoints": {
                name: checkpoint.model_copy(
                    update={
                        "model": _model_moved(checkpoint.model),
                        "features": _features_moved(checkpoint.features),
                    }
                )
                for name, checkpoint in known.checkpoints.items()
            },
        }
    )
    tokens_file = None if config.tokens_file is None else str(Path(config.tokens_file).resolve())
    return config.model_copy(
        update={"catalogue": catalogue, "folder": str(Path(config.folder).resolve()), "tokens_file": tokens_file}
    )


def _validated(schema: type[_Root], tree: Tree, overrides: Sequence[str]) -> _Root:
    try:
        return schema.model_validate(overridden(tree, overrides, schema))
    except ValidationError as error:
        raise ConfigError(_explain(error, schema)) from None


def overridden(tree: Tree, overrides: Sequence[str], schema: type[BaseModel]) -> Tree:
    """Apply `a.b=c` overrides to a parsed tree of any schema, and name the kinds that are left to their defaults."""
    for override in overrides:
        _apply(tree, override)
    _name_default_kinds(tree, schema)
    return tree


def _apply(tree: Tree, override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r}: {text!r} is not a YAML value; quote it") from None
    *parents, last = key.strip().split(".")
    for parent in parents:
        below = tree.get(parent)
        if below is None:  # absent, or switched off as a resolved configuration has it
            below = tree[parent] = {}
        if not isinstance(below, dict):
            raise ConfigError(f"override {override!r}: {parent} is {below!r}, not a section")
        tree = typing.cast(Tree, below)
    if last == "kind" and tree.get("kind", value) != value:
        tree.clear()  # another algorithm: the settings of the old one do not carry over
    tree[last] = value


def _name_default_kinds(tree: Tree, section: type[BaseModel]) -> None:
    """Where a union's settings are given without its kind, the default kind is meant."""
    for name, field in section.model_fields.items():
        below = tree.get(name)
        if not isinstance(below, dict):
            continue
        part, members = typing.cast(Tree, below), _members(field.annotation)
        if _is_named(field.annotation):
            _name_kinds_of_all(part, members)
            continue
        if len(members) > 1 and "kind" not in part and isinstance(field.default, BaseModel):
            part["kind"] = _kind(type(field.default))
        chosen = [member for member in members if len(members) == 1 or _kind(member) == part.get("kind")]
        for member in chosen:
            _name_default_kinds(part, member)


def _name_kinds_of_all(parts: Tree, members: list[type[BaseModel]]) -> None:
    """Do so for sections that the user names: those of a catalogue."""
    for below in parts.values():
        if isinstance(below, dict):
            part = typing.cast(Tree, below)
            for member in members:
                if len(members) == 1 or _kind(member) == part.get("kind"):
                    _name_default_kinds(part, member)


def _explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Put the first mistake into one line; say how many more there are."""
    mistakes = error.errors(include_url=False, include_context=True)
    return explain(mistakes[0], root)[1] + (f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else "")


def explain(first: ErrorDetails, root: type[BaseModel]) -> tuple[str, str]:
    """Return the key of one of pydantic's mistakes as the user wrote it, and a line that says what to do about it."""
    loc = tuple(str(part) for part in first["loc"])
    key = ".".join(_as_written(loc, root))
    shown = key or "configuration"
    match first["type"]:
        case "extra_forbidden":
            return key, f"{shown} is not a setting{_nearest(loc[-1], _fields_at(loc[:-1], root))}"
        case "missing":
            return key, f"{shown} is missing: set it in the file or with --set {shown}=..."
        case "union_tag_invalid":
            context: dict[str, Any] = dict(first.get("ctx", {}))
            valid = [tag.strip().strip("'") for tag in str(context["expected_tags"]).split(",")]
            return f"{key}.kind", f"{shown}.kind is {context['tag']!r}{_nearest(str(context['tag']), valid)}"
        case "union_tag_not_found":
            return f"{key}.kind", f"{shown}.kind is missing: name one of the kinds"
        case "value_error":
            return key, _one_line(str(first["msg"]).removeprefix("Value error, "))
        case _:
            return key, f"{shown} is {first['input']!r}: {_one_line(str(first['msg']))}"


def _nearest(word: str, valid: Iterable[str]) -> str:
    known = list(valid)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": valid are {', '.join(known)}"


def _members(annotation: Any) -> list[type[BaseModel]]:
    """Return the section classes that an annotation admits."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [member for part in typing.get_args(annotation) for member in _members(part)]


def _kind(section: type[BaseModel]) -> str | None:
    field = section.model_fields.get("kind")
    return None if field is None else str(field.default)


def _is_named(annotation: Any) -> bool:
    """Whether sections stand under names that the user chose."""
    return typing.get_origin(annotation) is dict


def _walk(loc: Sequence[str], root: type[BaseModel]) -> tuple[list[type[BaseModel]], list[str]]:
    """Follow a pydantic location; return the sections it ends in and the keys as a user writes them (no union tags)."""
    here: list[type[BaseModel]] = [root]
    written: list[str] = []
    named = False
    for part in loc:
        if named:  # a name that the user chose
            written.append(part)
            named = False
            continue
        tagged = [section for section in here if _kind(section) == part]
        if len(here) > 1 and tagged:
            here = tagged
            continue
        written.append(part)
        if part.isdigit():  # a place in a list of sections
            continue
        annotations = [section.model_fields[part].annotation for section in here if part in section.model_fields]
        named = any(map(_is_named, annotations))
        here = [member for annotation in annotations for member in _members(annotation)]
    return here, written


def _fields_at(loc: Sequence[str], root: type[BaseModel]) -> list[str]:
    return [name for section in _walk(loc, root)[0] for name in section.model_fields]


def _as_written(loc: Sequence[str], root: type[BaseModel]) -> list[str]:
    return _walk(loc, root)[1]


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Make paths that exist absolute, so that workers elsewhere on the machine find them; hub ids stay."""
    return config.model_copy(
        update={
            "pool": _rows_moved(config.pool),
            "target": None if config.target is None else _rows_moved(config.target),
            "targets": tuple(_rows_moved(target) for target in config.targets),
            "model": _model_moved(config.model),
            "features": _features_moved(config.features),
            "evaluation": _evaluation_moved(config.evaluation),
            "study": config.study.model_copy(
                update={
                    "files": {name: str(Path(path).resolve()) for name, path in config.study.files.items()},
                    "exhaustive": _absolute(config.study.exhaustive),
                }
            ),
        }
    )


def _evaluation_moved(evaluation: Evaluation) -> Evaluation:
    held_out, harness = evaluation.held_out, evaluation.harness
    if held_out is not None:
        held_out = _rows_moved(held_out)
    if harness is not None:
        harness = harness.model_copy(update={"include": _absolute(harness.include)})
    return evaluation.model_copy(update={"held_out": held_out, "harness": harness})


def _absolute(path: str | None) -> str | None:
    return str(Path(path).resolve()) if path is not None and Path(path).exists() else path


def _rows_moved(rows: _Rows) -> _Rows:
    return rows.model_copy(update={"path": _absolute(rows.path)})


def _model_moved(model: Model) -> Model:
    return model.model_copy(update={name: _absolute(getattr(model, name)) for name in ("base", "adapter", "moments")})


def _features_moved(features: Features) -> Features:
    if features.kind == "several":
        return features.model_copy(update={"parts": tuple(_feature_moved(part) for part in features.parts)})
    return _feature_moved(features)


def _feature_moved(features: Feature) -> Feature:
    match features:
        case EmbeddingFeatures():
            return features.model_copy(update={"encoder": _absolute(features.encoder)})
        case ProxyFeatures():
            return features.model_copy(
                update={name: _absolute(getattr(features, name)) for name in ("base", "adapter")}
            )
        case GradientFeatures():
            return features.model_copy(update={"path": _absolute(features.path)})
        case _:
            return features


def _one_line(text: str) -> str:
    return " ".join(text.split())
