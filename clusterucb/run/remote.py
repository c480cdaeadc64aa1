"""A run folder in an object store, or on any other file system that fsspec knows.

The run works in a *working copy* on the local disk; this class mirrors it. A file written whole is one object. A file
that grows is, since objects cannot, an object a piece: `<name>.parts/<first byte>`, behind an object `<name>` that may
hold the beginning. Invariants: an object is never written in part where the store can help it; a piece is created
exclusively, so that two writers cannot mix; what the store holds wins over the working copy.
"""

# fsspec is not typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
import json
import os
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.registry import get_filesystem_class
from fsspec.utils import get_protocol

from clusterucb.errors import RunFolderError
from clusterucb.run.disk import replacing, write_atomically
from clusterucb.run.part_names import STAGES

GROWING = frozenset(
    {"events.jsonl", "state/scores.journal", "state/sketches.f16", *(f"state/{name}.journal" for name in STAGES)}
)
"""Files that only grow; every other one is written whole."""

_STORE_ONLY = ("state/lease/", "state/cancel")
_PARTS = ".parts/"
_MANY_PARTS = 256
_AT_A_TIME = 64
_KNOWN = ".remote.json"
_VERSION_KEYS = ("ETag", "etag", "generation", "mtime", "created", "LastModified", "last_modified")


def is_url(location: str) -> bool:
    """Whether a location names a file system of its own, rather than a path."""
    return "://" in location


def working_copy(url: str) -> Path:
    """Return the folder on this machine where the run at `url` is worked on.

    It is below CLUSTERUCB_SCRATCH, else below the user's cache.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    scratch = os.environ.get("CLUSTERUCB_SCRATCH") or f"{cache}/clusterucb/runs"
    name = url.rstrip("/").rpartition("/")[2]
    return Path(scratch).expanduser() / hashlib.blake2b(url.encode(), digest_size=8).hexdigest() / name


class Remote:
    """The objects of one run."""

    def __init__(self, url: str, copy: Path) -> None:
        self.url = url.rstrip("/")
        self.copy = copy
        self._fs, self._root = _connect(self.url)
        self._rooted = self._fs.root_marker == "/"  # it has folders, which must be made, and can move files

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name, or a piece of it."""
        with self._reaching(name):
            path = self._path(name)
            return bool(self._fs.exists(path) or (name in GROWING and self._fs.exists(path + _PARTS.rstrip("/"))))

    @property
    def empty(self) -> bool:
        """Whether there is nothing at all."""
        return not self._find()

    def read(self, name: str) -> bytes | None:
        """Return an object; None where there is none."""
        with self._reaching(name):
            try:
                return self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Write an object whole."""
        with self._reaching(name), self._placing(name) as path:
            self._fs.pipe_file(path, data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object that must be new; False where it is there. Atomic as far as the store is."""
        with self._reaching(name):
            path = self._path(name)
            self._make_room(path)
            try:
                if self._rooted:
                    with self._fs.open(path, "xb") as file:
                        file.write(data)
                else:
                    self._fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
        return True

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects, those that are there."""
        for name in names:
            with self._reaching(name):
                try:
                    self._fs.rm_file(self._path(name))
                except FileNotFoundError:
                    continue

    def names(self, folder: str) -> list[str]:
        """Return the names of the objects right below a folder."""
        with self._reaching(folder):
            try:
                return [name.rpartition("/")[2] for name in self._fs.ls(self._path(folder), detail=False)]
            except FileNotFoundError:
                return []

    def clear(self) -> None:
        """Remove the run, here and there."""
        with self._reaching(""):
            if self._fs.exists(self._root):
                self._fs.rm(self._root, recursive=True)
        shutil.rmtree(self.copy, ignore_errors=True)

    def put(self, path: Path) -> None:
        """Keep a file that was written whole."""
        name = self._name(path)
        with self._reaching(name):
            with self._placing(name) as place:
                self._fs.put_file(str(path), place)
            self._remember({name: _version(self._fs.info(self._path(name)))})

    def append(self, path: Path, start: int, data: bytes) -> None:
        """Keep a piece of a growing file."""
        name = f"{self._name(path)}{_PARTS}{start:016d}"
        if not self.create(name, data) and self.read(name) != data:
            raise RunFolderError(
                f"{self.url}/{name} is there already: another process writes this run, so this one stops; follow the "
                f"other with `clusterucb watch {self.url}`"
            )

    def cut(self, path: Path, size: int) -> None:
        """Remove the pieces from byte `size` on."""
        name = self._name(path)
        self.delete(f"{name}{_PARTS}{part}" for part in self.names(name + _PARTS.rstrip("/")) if int(part) >= size)

    def remove(self, path: Path) -> None:
        """Remove a file, with its pieces."""
        self.cut(path, 0)
        self.delete([self._name(path)])

    def seal(self, path: Path) -> None:
        """Keep a growing file as one object instead of its pieces."""
        self.put(path)
        self.cut(path, 0)

    def bring(self, path: Path) -> None:
        """Bring one file into the working copy, unless that has it or there is none."""
        name = self._name(path)
        with self._reaching(name):
            try:
                info = self._fs.info(self._path(name))
            except FileNotFoundError:
                return
            self._bring({name: info})

    def bring_whole_files(self) -> None:
        """Bring the files that never change, as far as the working copy lacks them."""
        with self._reaching(""):
            self._bring({name: info for name, info in self._find().items() if _whole(name)})

    def bring_everything(self) -> None:
        """Make the working copy what the store holds; nobody else may be writing either."""
        found = self._find()
        with self._reaching(""):
            wholes = {name: info for name, info in found.items() if _whole(name)}
            self._bring(wholes)
            parts: dict[str, list[int]] = {name: [] for name in found if name in GROWING}
            for name in found:
                base, mark, start = name.partition(_PARTS)
                if mark and start.isdecimal():
                    parts.setdefault(base, []).append(int(start))
            for name, starts in parts.items():
                self._assemble(name, sorted(starts), name in found, self.copy / name)
                if len(starts) > _MANY_PARTS:
                    self.seal(self.copy / name)
        for path in self.copy.rglob("*"):
            name = self._name(path)
            if path.is_file() and name != _KNOWN and name not in wholes and name not in parts:
                path.unlink()

    def read_grown(self, name: str, start: int) -> bytes:
        """Return a growing file from byte `start` on; less, where it is being joined just now."""
        with self._reaching(name):
            data = b""
            try:
                if self._fs.info(self._path(name))["size"] > start:
                    data = self._fs.cat_file(self._path(name), start=start)
            except FileNotFoundError:
                pass  # it is in pieces
            folder = f"{name}{_PARTS}"
            for part in sorted(self.names(folder.rstrip("/"))):
                if int(part) == start + len(data):
                    data += self.read(folder + part) or b""
            return data

    def copy_grown(self, name: str, path: Path) -> None:
        """Write a growing file to another place on the local disk."""
        with self._reaching(name):
            starts = sorted(map(int, self.names((name + _PARTS).rstrip("/"))))
            self._assemble(name, starts, bool(self._fs.exists(self._path(name))), path)

    def _assemble(self, name: str, starts: list[int], whole: bool, path: Path) -> None:
        with replacing(path) as beside:
            if whole:
                self._fs.get_file(self._path(name), str(beside))
            with beside.open("r+b" if whole else "wb") as file:
                for at in range(0, len(starts), _AT_A_TIME):
                    names = [self._path(f"{name}{_PARTS}{start:016d}") for start in starts[at : at + _AT_A_TIME]]
                    pieces = self._fs.cat(names)
                    for start, part in zip(starts[at : at + _AT_A_TIME], names, strict=True):
                        file.seek(start)
                        file.write(pieces[part])

    def _bring(self, infos: dict[str, Any]) -> None:
        known = self._known()
        brought: dict[str, str] = {}
        for name, info in infos.items():
            path, version = self.copy / name, _version(info)
            if path.exists() and version and known.get(name) == version and path.stat().st_size == info["size"]:
                continue
            with replacing(path) as beside:
                self._fs.get_file(self._path(name), str(beside))
            brought[name] = version
        self._remember(brought)

    def _find(self) -> dict[str, Any]:
        """Return what is known of every object, by name."""
        with self._reaching(""):
            try:
                found = self._fs.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
        below = len(self._fs._strip_protocol(self._root).rstrip("/")) + 1
        named = {path[below:]: info for path, info in found.items()}
        return {name: info for name, info in named.items() if not (name.startswith(_STORE_ONLY) or _unfinished(name))}

    def _known(self) -> dict[str, str]:
        try:
            return json.loads((self.copy / _KNOWN).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}

    def _remember(self, versions: dict[str, str]) -> None:
        if versions:
            write_atomically(self.copy / _KNOWN, json.dumps(self._known() | versions))

    @contextmanager
    def _placing(self, name: str) -> Generator[str]:
        """Give the path to write an object to; where there are folders it is moved into its place afterwards."""
        path = self._path(name)
        if not self._rooted:
            yield path
            return
        self._make_room(path)
        folder, _, last = path.rpartition("/")
        beside = f"{folder}/.{last}.writing"
        yield beside
        self._fs.mv(beside, path)

    def _make_room(self, path: str) -> None:
        if self._rooted:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _reaching(self, name: str) -> Generator[None]:
        """Turn what a store's driver raises into a RunFolderError: drivers raise whatever their libraries do."""
        try:
            yield
        except (RunFolderError, AssertionError):
            raise
        except Exception as error:
            words = " ".join(str(error).split())[:300]
            raise RunFolderError(
                f"{self.url}/{name} cannot be reached ({type(error).__name__}: {words}); nothing there is damaged: "
                f"check credentials, network and space, then run again or `clusterucb resume {self.url}` to go on"
            ) from error

    def _name(self, path: Path) -> str:
        return path.relative_to(self.copy).as_posix()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _connect(url: str) -> tuple[Any, str]:
    protocol = get_protocol(url)
    try:
        get_filesystem_class(protocol)
    except ImportError as error:
        raise RunFolderError(
            f"{url} needs a driver that is not here ({error}): install it on the driver's and the workers' machines"
        ) from None
    except ValueError:
        raise RunFolderError(
            f"{url} begins with {protocol}://, which fsspec does not know: give a path, or a URL such as s3://bucket/run"
        ) from None
    fs, root = url_to_fs(url, use_listings_cache=False)
    return fs, root.rstrip("/")


def _version(info: dict[str, Any]) -> str:
    """Return what tells one content of an object from the next; nothing where the store does not say."""
    mark = next((info[key] for key in _VERSION_KEYS if info.get(key)), None)
    if isinstance(mark, datetime):  # a listing may say the same in seconds
        mark = mark.timestamp()
    return "" if mark is None else f"{info['size']} {mark}"


def _whole(name: str) -> bool:
    """Whether a name is that of a file that was written whole."""
    return name not in GROWING and _PARTS not in name


def _unfinished(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(".writing")
