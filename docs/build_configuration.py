"""Write `docs/configuration.md` from the schema: `python docs/build_configuration.py`.

The page says nothing that the schema does not: keys, types, bounds, defaults and docstrings come from
`clusterucb.config`, so that a test can tell when it is out of date.
"""

import inspect
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from clusterucb.config import RunConfig

PAGE = Path(__file__).with_name("configuration.md")
_HEAD = """# Configuration

<!-- written by docs/build_configuration.py from clusterucb/config -->

One schema is the YAML file, `--set key=value` and the HTTP body alike: defaults, then the file, then `--set` or the
body. Only `pool.path`, `target.path` (or a list of `targets`) and `model.base` must be given. An unknown key is an
error that names the nearest valid one. Where a part has several kinds, settings given without `kind` mean the default
kind. Every section but `workers`, `store` and `sinks` is part of what is computed: a run folder is resumed only with
the same values. `evaluation` and `study` count for the verbs of these names alone.
"""
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null"}
_BOUNDS = (
    (annotated_types.Ge, "ge", "at least"),
    (annotated_types.Gt, "gt", "above"),
    (annotated_types.Le, "le", "at most"),
    (annotated_types.Lt, "lt", "below"),
)
_SAID = 2**60  # a bound beyond it only keeps a number in its type


def build() -> str:
    """Return the page."""
    fields = RunConfig.model_fields
    sections = [name for name in fields if _sections(fields[name].annotation)]
    plain = [_row(name, fields[name]) for name in fields if name not in sections]
    links = ", ".join(f"[{name}](#{name})" for name in sections)
    parts = [_HEAD, *_described(f"Sections: {links}; and, at the top level:", plain)]
    for name in sections:
        parts += _part(name, fields[name], depth=2)
    return "\n".join(parts).rstrip() + "\n"


def _part(key: str, field: FieldInfo, depth: int) -> Iterator[str]:
    """Yield the chapter of a section, or of every kind of a union, and of the sections inside."""
    sections = _sections(field.annotation)
    several = typing.get_origin(field.annotation) is tuple
    if not sections or (several and len(sections) > 1):  # the kinds of such a list have chapters of their own
        return
    yield f"{'#' * depth} {key}\n"
    if len(sections) == 1:
        yield from _section(key, sections[0], depth)
        return
    default = _kind(type(field.default))
    kinds = ", ".join(f"`{_kind(section)}`{' (default)' if _kind(section) == default else ''}" for section in sections)
    yield f"`{key}.kind` is one of {kinds}.\n"
    for section in sections:
        yield f"{'#' * (depth + 1)} {key}.kind: {_kind(section)}\n"
        yield from _section(key, section, depth + 1)


def _section(key: str, section: type[BaseModel], depth: int) -> Iterator[str]:
    fields = {name: field for name, field in section.model_fields.items() if name != "kind"}
    rows = [_row(f"{key}.{name}", field) for name, field in fields.items()]
    yield from _described(inspect.getdoc(section) or "", rows)
    for name, field in fields.items():
        yield from _part(f"{key}.{name}", field, depth + 1)


def _described(text: str, rows: list[str]) -> Iterator[str]:
    yield f"{text}\n"
    if rows:
        yield "| key | type | default | meaning |\n|---|---|---|---|"
        yield from rows
        yield ""


def _row(key: str, field: FieldInfo) -> str:
    cells = (f"`{key}`", _type(field.annotation, field.metadata), _default(field), field.description or "")
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return "**required**"
    if isinstance(value, BaseModel):
        return f"`{kind}`" if (kind := _kind(type(value))) else "as below"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(annotation: Any, bounds: list[Any]) -> str:
    """Name a type in the words of someone who writes YAML."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0], [*_flat(arguments[1:]), *bounds])
    if origin is tuple and _sections(annotation):
        return "list of sections"
    if _sections(annotation):
        return "one of its kinds" if len(_sections(annotation)) > 1 else "section"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        names = [_type(part, bounds if part in (int, float) else []) for part in arguments]
        return " or ".join(names)
    if origin is tuple:
        return f"list of {_type(arguments[0], [])}"
    if origin is dict:
        return f"{_type(arguments[1], [])} by name"
    limits = [
        f"{words} {getattr(bound, name):g}"
        for bound in _flat(bounds)
        for kind, name, words in _BOUNDS
        if isinstance(bound, kind) and abs(getattr(bound, name)) < _SAID
    ]
    return _WORDS[annotation] + (f" ({', '.join(limits)})" if limits else "")


def _flat(metadata: typing.Iterable[Any]) -> list[Any]:
    """Spread the bounds that a `Field(...)` inside Annotated holds."""
    return [bound for item in metadata for bound in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in typing.get_args(annotation) for section in _sections(part)]


def _kind(section: type[BaseModel]) -> str | None:
    field = section.model_fields.get("kind")
    return None if field is None else str(field.default)


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
