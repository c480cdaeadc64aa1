"""Writing files that a crash or a full disk cannot damage.

Invariants: a file is replaced whole or not at all; a disk that takes no more is a RunFolderError that names the file,
the reason and the way out, whichever library met it first.
"""

import errno
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from clusterucb.errors import RunFolderError

_WAY_OUT = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space or have the quota raised",
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f`), or use another file system",
    errno.EROFS: "make it writable, or give another folder with --out",
    errno.EACCES: "make it writable, or give another folder with --out",
    errno.EPERM: "make it writable, or give another folder with --out",
    errno.EIO: "check the disk or the network mount",
    errno.ESTALE: "mount it again",
}


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn what a disk refuses while `path` is written into a RunFolderError; other errors pass."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _number(error)
        elsewhere = isinstance(error, OSError) and error.filename and path.parent not in Path(error.filename).parents
        if number not in _WAY_OUT or elsewhere:
            raise
        raise RunFolderError(
            f"{path} cannot be written: {os.strerror(number)}; nothing on disk is damaged: {_WAY_OUT[number]}, then "
            f"run again or `clusterucb resume` to go on"
        ) from error


def _number(error: OSError | SafetensorError) -> int:
    """Return the system's number of an error; libraries written in Rust have it in their text only."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"(?:os error|errno) (\d+)", str(error))
    return int(found[1]) if found else 0


def write_atomically(path: Path, data: bytes | str) -> None:
    """Replace a file so that a reader or a crash sees the old bytes or the new ones, never a part."""
    raw = data.encode("utf-8") if isinstance(data, str) else data
    with replacing(path) as beside, beside.open("wb") as file:
        file.write(raw)


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a file to write beside `path`, and put it in its place once it is written and on the disk."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.writing")
        yield beside
        sync(beside)
        os.replace(beside, path)


def sync(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_all(file: int, data: bytes) -> None:
    """Write all of `data` to a file descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
