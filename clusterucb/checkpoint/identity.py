"""Which checkpoint this is, by content: the same weights under another path are the same, other weights under the same
path are not.

Files are read once and their digests kept (`Digests`), by path, size, time of change and inode. A change within the
last seconds before reading may escape a file's time, so such a digest is not kept.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from huggingface_hub import try_to_load_from_cache  # pyright: ignore[reportUnknownVariableType]

from clusterucb.checkpoint.checkpoint_files import adapter_folder, local_or_hub
from clusterucb.checkpoint.moments import FILE_NAME
from clusterucb.config import Model
from clusterucb.errors import ModelError

_BLOCK = 1 << 23
_SETTLED_S = 5.0


class Digests:
    """Digests of files, kept in a folder between runs."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def of(self, path: Path) -> str:
        """Return the digest of a file's content."""
        path = path.resolve()
        found = path.stat()
        signature = [str(path), found.st_size, found.st_mtime_ns, found.st_ino]
        kept = self._folder / f"{hashlib.blake2b(str(path).encode(), digest_size=16).hexdigest()}.json"
        try:
            *known, digest = json.loads(kept.read_text(encoding="utf-8"))
            if known == signature:
                return str(digest)
        except (OSError, ValueError):
            pass
        digest = _digest(path)
        if self._clock() - found.st_mtime > _SETTLED_S:
            self._folder.mkdir(parents=True, exist_ok=True)
            beside = kept.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps([*signature, digest]), encoding="utf-8")
            beside.replace(kept)
        return digest

    def of_all(self, paths: Iterable[Path], root: Path) -> str:
        """Return the digest of several files and their names below `root`."""
        named = [(str(path.relative_to(root)), self.of(path)) for path in sorted(paths)]
        return hashlib.blake2b(json.dumps(named).encode(), digest_size=16).hexdigest()


def base_identity(config: Model, digests: Digests) -> str:
    """Return what names the base weights and their configuration: content, or revision on the hub."""
    base = local_or_hub(config.base, "model.base")
    if not Path(base).is_dir():
        cached = try_to_load_from_cache(base, "config.json", revision=config.revision)
        if not isinstance(cached, str):
            raise ModelError(
                f"model.base {config.base} is not in the hub's cache on this machine, so that its revision is unknown: "
                "download it here, or give a folder"
            )
        return f"{base}@{Path(cached).parent.name}"
    return digests.of_all([*Path(base).glob("*.safetensors"), Path(base) / "config.json"], Path(base))


def adapter_identity(config: Model, seed: int, fresh: bool) -> str:
    """Return what names the adapter: content, or what settles a fresh one; nothing where `fresh` ones are left out."""
    if config.adapter is None:
        return f"{config.lora.model_dump_json()} seed {seed}" if fresh else ""
    return _adapter_digest(config.adapter)


def moments_identity(config: Model, digests: Digests) -> str:
    """Return what names the moments by content; nothing where there are none."""
    if config.moments is None:
        return ""
    path = Path(config.moments).expanduser()
    if path.is_dir() and (path / FILE_NAME).exists():
        path = path / FILE_NAME
    if path.is_file():
        return digests.of(path)
    return digests.of_all((each for each in path.rglob("*") if each.is_file()), path)


def _adapter_digest(adapter: str) -> str:
    """Return the digest of an adapter, which is small; its settings count but for where it says its base lies."""
    folder = adapter_folder(adapter)
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    settings.pop("base_model_name_or_path", None)
    weights = _digest(folder / "adapter_model.safetensors")
    return hashlib.blake2b(f"{json.dumps(settings, sort_keys=True)}{weights}".encode(), digest_size=16).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
