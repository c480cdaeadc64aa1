"""Read Adam moments from a folder of torch.distributed.checkpoint: what FSDP writes as a sharded state, `*.distcp`.

The folder's `.metadata` is a pickle, and torch itself opens it as one. Invariant: nothing that it names is imported or
called. Every class that torch writes there becomes a record without behaviour, every other name is refused, and the
pieces of tensors that it points at are read as weights only, inside the folder.
"""

import io
import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch

from clusterucb.checkpoint.moments import Moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.checkpoint.optimizer_states import unpickled_safely
from clusterucb.errors import ModelError

_METADATA = ".metadata"
# `optimizer.state.<name>.exp_avg` as accelerate nests it, `state.<name>.exp_avg` as torchtitan flattens it.
_KEY = re.compile(r"(?:.*?\.)??state\.(?P<name>.+)\.(?P<kind>exp_avg|exp_avg_sq|step)")
_KINDS = ("exp_avg", "exp_avg_sq")


class _Record:
    """Takes the attributes of a pickled object and none of its behaviour."""

    def __init__(self, *parts: object) -> None:
        self.parts = parts

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(cast(dict[str, Any], state))


def _nothing(*parts: object) -> None:
    """Stand for a function whose answer is of no interest."""


_STAND_INS: dict[str, Callable[..., object]] = {
    "torch.distributed.checkpoint.filesystem._StorageInfo": _Record,
    "torch.distributed.checkpoint.metadata.BytesStorageMetadata": _Record,
    "torch.distributed.checkpoint.metadata.ChunkStorageMetadata": _Record,
    "torch.distributed.checkpoint.metadata.Metadata": _Record,
    "torch.distributed.checkpoint.metadata.MetadataIndex": _Record,
    "torch.distributed.checkpoint.metadata.StorageMeta": _Record,
    "torch.distributed.checkpoint.metadata.TensorProperties": _Record,
    "torch.distributed.checkpoint.metadata.TensorStorageMetadata": _Record,
    "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING": _Record,
    "torch.Size": tuple,
    "torch.serialization._get_layout": _nothing,
    "pathlib.PosixPath": _Record,
    "pathlib.PurePosixPath": _Record,
    "pathlib.WindowsPath": _Record,
    "pathlib.PureWindowsPath": _Record,
    "pathlib._local.PosixPath": _Record,
    "pathlib._local.WindowsPath": _Record,
}


class _Metadata(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if name in _STAND_INS:
            return _STAND_INS[name]
        if module_name == "torch" and isinstance(dtype := getattr(torch, global_name, None), torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"GLOBAL {name}")


def find_fsdp(path: Path) -> Path | None:
    """Return the folder of torch.distributed.checkpoint that `path` is or holds."""
    if not path.is_dir():
        return None
    for folder in (path, *sorted(path.glob("optim*"))):
        if any(folder.glob("*.distcp")):
            return folder
    return None


def read_fsdp(folder: Path) -> Moments:
    """Return the moments in a folder with `.metadata` and `*.distcp`.

    Raises ModelError for what is incomplete, is no Adam state by name, or would have to run code.
    """
    metadata = _read_metadata(folder)
    try:
        sizes = {
            key: tuple(entry.size) for key, entry in metadata.state_dict_metadata.items() if hasattr(entry, "size")
        }
        pieces = _pieces(folder, metadata.storage_data.items())
    except (AttributeError, TypeError, KeyError) as error:
        raise ModelError(
            f"model.moments {folder} has a {_METADATA} of another version of torch ({error}){_OTHERWISE}"
        ) from error
    merged: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in _KINDS}
    steps: set[int] = set()
    for key, size in sizes.items():
        if (found := _KEY.fullmatch(key)) is None:
            continue
        name, kind = found["name"], found["kind"]
        if name.isdecimal():
            raise ModelError(
                f"model.moments {folder} numbers its parameters (it has {key}): save the optimizer with "
                "torch.distributed.checkpoint.state_dict.get_optimizer_state_dict, which names them"
            )
        whole = _whole(folder, key, size, pieces.get(key, []))
        if kind == "step":
            steps.add(int(whole))
        else:
            merged[kind][canonical_name(name)] = whole
    if not merged["exp_avg"]:
        raise ModelError(
            f"model.moments {folder} holds no moments of Adam by parameter name (it has "
            f"{', '.join(sorted(sizes)[:3])}, ..): give the folder in which the optimizer's state was saved"
        )
    return Moments(merged["exp_avg"], merged["exp_avg_sq"], max(steps, default=None))


_OTHERWISE = (
    ": write it as one file where you trust it, with torch.distributed.checkpoint.format_utils.dcp_to_torch_save, and "
    "give that file"
)


class _Piece:
    """Where a part of a tensor lies in the files, and where in the tensor."""

    def __init__(self, folder: Path, index: Any, place: Any) -> None:
        self.key: str = index.fqn
        self.start: tuple[int, ...] = tuple(getattr(index, "offset", None) or ())
        self._offset, self._length = int(place.offset), int(place.length)
        name = str(place.relative_path)
        if getattr(place, "transform_descriptors", None) or Path(name).name != name:
            raise ModelError(f"model.moments {folder} keeps {self.key} transformed or elsewhere ({name}){_OTHERWISE}")
        self.file = folder / name

    def read(self) -> torch.Tensor:
        try:
            with self.file.open("rb") as file:
                file.seek(self._offset)
                raw = file.read(self._length)
        except OSError as error:
            raise ModelError(f"{self.file} cannot be read ({error.strerror}): copy all files of the folder") from error
        found = unpickled_safely(io.BytesIO(raw), self.file, {})
        if not isinstance(found, torch.Tensor):
            raise ModelError(
                f"{self.file} holds a {type(found).__name__} for {self.key}, which is a tensor{_OTHERWISE}"
            )
        return found


def _pieces(folder: Path, places: Iterable[tuple[Any, Any]]) -> dict[str, list[_Piece]]:
    found: dict[str, list[_Piece]] = {}
    for index, place in places:
        if _KEY.fullmatch(index.fqn):
            found.setdefault(index.fqn, []).append(_Piece(folder, index, place))
    return found


def _whole(folder: Path, key: str, size: tuple[int, ...], pieces: list[_Piece]) -> torch.Tensor:
    """Put a tensor's pieces where they belong."""
    whole, filled = torch.zeros(size, dtype=torch.float32), 0
    for piece in pieces:
        part = piece.read()
        at = tuple(slice(start, start + length) for start, length in zip(piece.start, part.shape, strict=False))
        if whole[at].shape != part.shape:
            raise ModelError(f"model.moments {folder} has a piece of {key} that does not fit in {size}: copy it again")
        whole[at] = part.float()
        filled += part.numel()
    if filled != whole.numel():
        raise ModelError(
            f"model.moments {folder} has {filled} numbers of {key}, which has {whole.numel()}: copy it again"
        )
    return whole


def _read_metadata(folder: Path) -> Any:
    path = folder / _METADATA
    try:
        return _Metadata(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}): copy it too, beside the *.distcp files") from error
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it needs {unsafe.group(1)}" if unsafe else str(error)
        raise ModelError(f"{path} cannot be opened without running code from it ({what}){_OTHERWISE}") from error
    except (EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError, OverflowError) as error:
        raise ModelError(f"{path} is damaged ({error}): copy it again") from error
