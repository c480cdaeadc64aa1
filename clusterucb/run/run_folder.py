"""A run is a folder: the configuration it was started with, its state, and what came out.

The folder is a path, or a URL of any file system that fsspec knows; then `path` is a working copy on this machine, and
every durable write goes to the URL before it counts. Invariants: `config.json` is written before any work and never
changes; every other file is replaced atomically; a folder is resumed only by a configuration that computes the same
thing (`workers`, `store` and `sinks` may differ, and what only judges: `evaluation` and `study`).
"""

import json
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast

from clusterucb.config import RunConfig
from clusterucb.errors import RunFolderError
from clusterucb.run.disk import write_atomically
from clusterucb.run.journal import check_journal
from clusterucb.run.part_names import STAGES
from clusterucb.run.remote import Remote, is_url, working_copy
from clusterucb.run.replica import NO_REPLICA, Replica

_LIBRARIES = ("clusterucb-service", "torch", "transformers", "peft", "deepspeed", "ray", "numpy", "datasets")
_EXECUTION_ONLY = ("workers", "store", "sinks")
_JUDGING = ("evaluation", "study")
_JOURNALS = ("scores.journal", *(f"{name}.journal" for name in STAGES))
_CANCEL = "state/cancel"
_POLL_S, _REMOTE_POLL_S = 0.5, 5.0

Verb = Literal["select", "warmup", "run", "evaluate", "study"]
"""What a folder was begun with, and goes on with."""


def versions() -> dict[str, str]:
    """Return the versions of the libraries that a result may depend on."""
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

    def __init__(self, path: Path, remote: Remote | None = None) -> None:
        self.path = path
        self.remote = remote
        self.replica: Replica = remote or NO_REPLICA
        self.location = str(path) if remote is None else remote.url
        """What the user calls this run; `open` understands it, on any machine that reaches it."""
        self.config_file = path / "config.json"
        self.events_file = path / "events.jsonl"
        self.selection_file = path / "selection.jsonl"
        self.scores_file = path / "scores.parquet"
        self.summary_file = path / "summary.json"
        self.gates_file = path / "gates.jsonl"
        self.report_file = path / "report.html"
        self.state = path / "state"
        self.cancel_file = self.state / "cancel"

    @staticmethod
    def open(location: str | Path) -> "RunFolder":
        """Return the run at a path or a URL; raises RunFolderError where a URL's driver is missing."""
        if isinstance(location, Path) or not is_url(location):
            return RunFolder(Path(location).resolve())
        copy = working_copy(location)
        return RunFolder(copy, Remote(location, copy))

    def selection_file_of(self, target: str) -> Path:
        """Return the file of one target's own selection, where there are several."""
        return self.path / f"selection-{target}.jsonl"

    @property
    def name(self) -> str:
        """The last part of the location."""
        return self.path.name

    @property
    def poll_s(self) -> float:
        """How often to look for news: looking costs a request where the run lies in an object store."""
        return _POLL_S if self.remote is None else _REMOTE_POLL_S

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return self._has("config.json")

    @property
    def begun(self) -> bool:
        """Whether workers computed anything here; the target bank is a selection's first."""
        return any(self._has(f"state/{name}") for name in ("target.safetensors", *_JOURNALS[1:]))

    @property
    def finished(self) -> bool:
        """Whether the selection is written; the summary is the last file of a run."""
        return self._has("summary.json")

    def _has(self, name: str) -> bool:
        return (self.path / name).is_file() if self.remote is None else self.remote.exists(name)

    def bring(self, path: Path) -> Path:
        """Return the path of one of the run's files, brought into the working copy where it was not there."""
        if self.remote is not None:
            self.remote.bring(path)
        return path

    def bring_whole_files(self) -> None:
        """Have here what never changes any more: for reading beside a run that may be going on."""
        if self.remote is not None:
            self.remote.bring_whole_files()

    def bring_scores(self) -> None:
        """Have here what never changes and what was scored: for reading a run that is over, which stays as it is."""
        if self.remote is None:
            return
        if not self.finished:
            raise RunFolderError(f"{self.location} is not finished: `clusterucb resume {self.location}` goes on")
        self.remote.bring_whole_files()
        for name in ("state/scores.journal", "state/sketches.f16"):
            if self.remote.exists(name):
                self.remote.copy_grown(name, self.path / name)

    def take_over(self) -> None:
        """Have everything here, as it was last written: for whoever writes from now on."""
        if self.remote is not None:
            self.remote.bring_everything()

    def request_cancel(self) -> None:
        """Leave a request to stop, which whoever runs this run sees."""
        if self.remote is None:
            self.cancel_file.touch()
        else:
            self.remote.write(_CANCEL, b"")

    def clear_cancel(self) -> None:
        """Forget a request to stop."""
        if self.remote is None:
            self.cancel_file.unlink(missing_ok=True)
        else:
            self.remote.delete([_CANCEL])

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self._has(_CANCEL)

    def read_events(self, start: int) -> bytes:
        """Return what `events.jsonl` holds from byte `start` on."""
        if self.remote is not None:
            return self.remote.read_grown("events.jsonl", start)
        if not self.events_file.exists():
            return b""
        with self.events_file.open("rb") as file:
            file.seek(start)
            return file.read()

    def check_journals(self) -> None:
        """Raise RunFolderError where what was computed here is damaged other than by a crash."""
        if self.remote is None:
            for name in _JOURNALS:
                check_journal(self.state / name)
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path.parent) as apart:
            for name in _JOURNALS:
                if self.remote.exists(f"state/{name}"):
                    self.remote.copy_grown(f"state/{name}", Path(apart) / name)
                    check_journal(Path(apart) / name)

    def start(self, config: RunConfig, verb: Verb = "select") -> bool:
        """Claim an empty folder, or check that the run in it is this one; return True when it resumes."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file: give an empty or new folder with --out")
        if self.exists:
            if self.verb != verb:
                raise RunFolderError(
                    f"{self.location} was begun by `clusterucb {self.verb}`: `clusterucb resume` goes on with it, or "
                    f"give another folder with --out"
                )
            changed = _differences(self._comparable(self.read_config()), self._comparable(config))
            if changed:
                raise RunFolderError(
                    f"{self.location} holds a run with other settings: {'; '.join(changed[:5])}. "
                    f"Give another folder with --out, or delete this one"
                )
            return True
        if not self._empty:
            raise RunFolderError(
                f"{self.location} is not empty and holds no run: give an empty or new folder with --out"
            )
        if self.remote is not None:
            shutil.rmtree(self.path, ignore_errors=True)  # what is left of a run that was removed at the URL
        record = {"verb": verb, "config": config.model_dump(mode="json"), "versions": versions(), "git_sha": _git_sha()}
        try:
            write_atomically(self.config_file, json.dumps(record, indent=1) + "\n")
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be written ({error.strerror}): give another folder with --out"
            ) from None
        self.replica.put(self.config_file)
        return False

    @property
    def _empty(self) -> bool:
        if self.remote is not None:
            return self.remote.empty
        return not (self.path.exists() and any(self.path.iterdir()))

    @property
    def verb(self) -> Verb:
        """What the run was begun with."""
        return cast(Verb, self._record().get("verb", "select"))

    def _record(self) -> dict[str, Any]:
        if not self.exists:
            raise RunFolderError(f"{self.location} holds no run: there is no config.json in it")
        self.bring(self.config_file)
        try:
            return json.loads(self.config_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunFolderError(f"{self.location}/config.json is damaged or of another version: {error}") from None

    def read_config(self) -> RunConfig:
        """Return the configuration that the run was started with."""
        record = self._record()
        try:
            return RunConfig.model_validate(record["config"])
        except (ValueError, KeyError) as error:
            raise RunFolderError(f"{self.location}/config.json is damaged or of another version: {error}") from None

    def _comparable(self, config: RunConfig) -> dict[str, Any]:
        aside = _EXECUTION_ONLY if self.verb in ("evaluate", "study") else (*_EXECUTION_ONLY, *_JUDGING)
        return config.model_dump(mode="json", exclude=set(aside))
