"""The runtime environment of a job: Ray's YAML file, checked before anything is sent.

Invariant: what comes back is valid for Ray, and its working directory is the one that the configuration was checked in.
"""

import difflib
from pathlib import Path
from typing import Any

import yaml
from ray.runtime_env import RuntimeEnv

from clusterucb.errors import ConfigError

DEFAULT = Path("cluster_configs") / "runtime_env.yaml"
"""Taken from the working directory where no other file is named."""


def load_runtime_env(file: Path | None, working_dir: Path) -> dict[str, Any]:
    """Read `file`, else the working directory's own, else nothing; add the working directory."""
    path = working_dir / DEFAULT if file is None else file
    fields = _read(path) if file is not None or path.is_file() else {}
    if "working_dir" in fields:
        raise ConfigError(f"runtime environment {path} names a working_dir: give it with --working-dir instead")
    known = sorted(name.removeprefix("_") for name in RuntimeEnv.known_fields)
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(known)}"
            raise ConfigError(f"runtime environment {path}: Ray knows no field {name}: {hint}")
    try:
        RuntimeEnv(**fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"runtime environment {path}: {_one_line(error)}") from None
    return fields | {"working_dir": str(working_dir)}


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"runtime environment {path} is not readable YAML: {_one_line(error)}") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"runtime environment {path} holds no mapping: start from {DEFAULT}")
    return {str(name): value for name, value in fields.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
