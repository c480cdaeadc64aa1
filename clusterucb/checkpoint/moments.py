"""Adam moments of a checkpoint, keyed by canonical parameter name, float32.

Our own format is one safetensors file (`moments.safetensors` in a folder) with the tensors `exp_avg.<name>` and
`exp_avg_sq.<name>` and, in its metadata, the format's name and the optimizer's step. Optimizer states of other
programs are read by `optimizer_states`, `fsdp_states` and `deepspeed_states`; nothing that could run code is ever
unpickled.
"""

# transformers, peft and safetensors are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from clusterucb.errors import ModelError

FILE_NAME = "moments.safetensors"
_FORMAT = "clusterucb-moments-1"
_FIRST, _SECOND = "exp_avg.", "exp_avg_sq."


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """First and second moments by canonical parameter name, each of its parameter's shape."""

    exp_avg: Mapping[str, torch.Tensor]
    exp_avg_sq: Mapping[str, torch.Tensor]
    step: int | None


def save_moments(folder_or_file: Path, moments: Moments) -> Path:
    """Write `moments` to a file, or to `moments.safetensors` in a folder; return the file's path."""
    path = folder_or_file if folder_or_file.suffix == ".safetensors" else folder_or_file / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {_FIRST + name: tensor for name, tensor in moments.exp_avg.items()}
    tensors |= {_SECOND + name: tensor for name, tensor in moments.exp_avg_sq.items()}
    metadata = {"format": _FORMAT} | ({} if moments.step is None else {"step": str(moments.step)})
    partial = path.with_name(path.name + ".partial")
    save_file(
        {k: t.detach().to("cpu", torch.float32).contiguous().clone() for k, t in tensors.items()}, partial, metadata
    )
    _sort_metadata(partial)
    partial.replace(path)
    return path


def load_moments(path: Path, model: nn.Module) -> Moments:
    """Read moments from our format or from an optimizer state of transformers, FSDP or DeepSpeed.

    `model` (its weights are not read) is the one that was trained: optimizer states that only number their parameters
    follow its order. Raises ModelError where nothing there can be read.
    """
    from clusterucb.checkpoint.deepspeed_states import find_deepspeed, read_deepspeed
    from clusterucb.checkpoint.fsdp_states import find_fsdp, read_fsdp
    from clusterucb.checkpoint.optimizer_states import find_optimizer_file, read_optimizer_file

    path = path.expanduser()
    if not path.exists():
        raise ModelError(
            f"model.moments {path} does not exist: give a file or folder, or leave it out for plain gradients"
        )
    own = path / FILE_NAME if path.is_dir() else path
    if own.suffix == ".safetensors" and own.exists():
        return _read_own(own)
    if (checkpoint := find_deepspeed(path)) is not None:
        return read_deepspeed(checkpoint)
    if (file := find_optimizer_file(path)) is not None:
        return read_optimizer_file(file, model)
    if (sharded := find_fsdp(path)) is not None:
        return read_fsdp(sharded)
    raise ModelError(
        f"model.moments {path} holds no Adam moments: give {FILE_NAME}, an optimizer.pt or optimizer.bin, "
        "a DeepSpeed checkpoint folder (global_step*) or a folder of torch.distributed.checkpoint (*.distcp)"
    )


def check_moments(moments: Moments, parameters: Mapping[str, torch.Size]) -> None:
    """Raise ModelError unless there are finite moments of the right shape for exactly these parameters.

    Moments of further parameters are refused for an adapter's (they belong to another adapter) and ignored otherwise:
    a full fine-tuning has moments of every parameter, and gradients may be taken of a few.
    """
    adapter = any(".lora_A." in name for name in parameters)
    for kind, tensors in (("exp_avg", moments.exp_avg), ("exp_avg_sq", moments.exp_avg_sq)):
        missing = [name for name in parameters if name not in tensors]
        if missing:
            raise _mismatch(f"{kind} of {len(missing)} parameters is missing, first {missing[0]}")
        extra = [name for name in tensors if name not in parameters and (not adapter or ".lora_" in name)]
        if adapter and extra:
            raise _mismatch(f"{kind} has {len(extra)} parameters that the model does not train, first {extra[0]}")
        for name, size in parameters.items():
            tensor = tensors[name]
            if tensor.shape != size:
                raise _mismatch(f"{kind} of {name} has shape {tuple(tensor.shape)} instead of {tuple(size)}")
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(
                    f"{kind} of {name} has NaN or infinite values: the checkpoint is broken, give an earlier one"
                )
            if kind == "exp_avg_sq" and bool(tensor.any()) and torch.equal(tensor, moments.exp_avg[name]):
                raise ModelError(
                    f"exp_avg of {name} is the same as its exp_avg_sq: the checkpoint is broken, as FSDP1 does when it "
                    "offloads a full state from a CPU; save it without cpu_offload"
                )
            if kind == "exp_avg_sq" and bool((tensor < 0).any()):
                raise ModelError(
                    f"exp_avg_sq of {name} has negative values, so it is no mean of squares: give Adam's state"
                )


def _read_own(path: Path) -> Moments:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ModelError(
                    f"{path} holds no moments (format {metadata.get('format')!r}, not {_FORMAT!r}): give {FILE_NAME}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}): copy it again") from error
    step = metadata.get("step")
    return Moments(
        exp_avg={k.removeprefix(_FIRST): t for k, t in tensors.items() if k.startswith(_FIRST)},
        exp_avg_sq={k.removeprefix(_SECOND): t for k, t in tensors.items() if k.startswith(_SECOND)},
        step=None if step is None else int(step),
    )


def _sort_metadata(path: Path) -> None:
    """Put the entries of the header's metadata in order: safetensors writes them as a hash map has them, anew each
    time, and equal moments are to be equal bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(raw) <= size, "the same entries take the same room"
        file.seek(8)
        file.write(raw.ljust(size))


def _mismatch(what: str) -> ModelError:
    return ModelError(
        f"model.moments do not belong to this adapter and model: {what}. Give the moments saved with model.adapter"
    )
