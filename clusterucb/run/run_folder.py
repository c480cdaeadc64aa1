"""A run is a folder: the configuration it was started with, its state, and what came out.

Invariants: `config.json` is written before any work and never changes; every other file is replaced atomically; a
folder is resumed only by a configuration that computes the same thing (`workers` may differ).
"""

import json
import os
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, cast

from clusterucb.config import RunConfig
from clusterucb.errors import RunFolderError

_LIBRARIES = ("clusterucb-service", "torch", "transformers", "peft", "ray", "numpy", "datasets")
_EXECUTION_ONLY = ("workers",)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace a file so that a reader or a crash sees the old bytes or the new ones, never a part."""
    raw = data.encode("utf-8") if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    with beside.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "not installed"
    return found


def _git_sha() -> str | None:
    here = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() or None


def _differences(old: object, new: object, key: str = "") -> list[str]:
    """Name every key whose value differs between two resolved configurations."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{key} ({old!r} then, {new!r} now)"]
    before, now = cast(dict[str, object], old), cast(dict[str, object], new)
    return [
        line
        for name in dict.fromkeys([*before, *now])
        for line in _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    ]


class RunFolder:
    """Paths of a run and the rules of resuming it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.events_file = path / "events.jsonl"
        self.selection_file = path / "selection.jsonl"
        self.scores_file = path / "scores.parquet"
        self.summary_file = path / "summary.json"
        self.report_file = path / "report.html"
        self.state = path / "state"
        self.lock_file = self.state / "lock"
        self.cancel_file = self.state / "cancel"

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self.config_file.is_file()

    @property
    def begun(self) -> bool:
        """Whether workers computed anything here; the target bank is a selection's first."""
        return any((self.state / name).exists() for name in ("target.safetensors", "features.journal"))

    @property
    def finished(self) -> bool:
        """Whether the selection is written; the summary is the last file of a run."""
        return self.summary_file.is_file()

    def start(self, config: RunConfig) -> bool:
        """Claim an empty folder, or check that the run in it is this one; return True when it resumes."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file: give an empty or new folder with --out")
        if self.exists:
            changed = _differences(self._comparable(self.read_config()), self._comparable(config))
            if changed:
                raise RunFolderError(
                    f"{self.path} holds a run with other settings: {'; '.join(changed[:5])}. "
                    f"Give another folder with --out, or delete this one"
                )
            return True
        if self.path.exists() and any(self.path.iterdir()):
            raise RunFolderError(f"{self.path} is not empty and holds no run: give an empty or new folder with --out")
        record = {"config": config.model_dump(mode="json"), "versions": _versions(), "git_sha": _git_sha()}
        try:
            write_atomically(self.config_file, json.dumps(record, indent=1) + "\n")
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be written ({error.strerror}): give another folder with --out"
            ) from None
        return False

    def read_config(self) -> RunConfig:
        """Return the configuration that the run was started with."""
        if not self.exists:
            raise RunFolderError(f"{self.path} holds no run: there is no config.json in it")
        try:
            return RunConfig.model_validate(json.loads(self.config_file.read_text(encoding="utf-8"))["config"])
        except (ValueError, KeyError) as error:
            raise RunFolderError(f"{self.config_file} is damaged or of another version: {error}") from None

    @staticmethod
    def _comparable(config: RunConfig) -> dict[str, Any]:
        return config.model_dump(mode="json", exclude=set(_EXECUTION_ONLY))
