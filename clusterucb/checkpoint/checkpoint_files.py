"""What stands on disk (or in the hub's cache) under the names a user gives for base model and adapter.

Only safetensors files are ever opened: a folder of pickled weights is refused with the way to convert it. Headers are
read without the weights, so that a driver can check a checkpoint of any size.
"""

# transformers, peft and safetensors are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open

from clusterucb.errors import ModelError


def local_or_hub(name: str, setting: str) -> str:
    """Return the folder that `name` means, or `name` itself where it can only be a hub id.

    Raises ModelError for a file, or for what looks like a path and does not exist.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if path.exists():
        raise ModelError(f"{setting} is the file {name}: give the folder that save_pretrained wrote")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"{setting} {name} does not exist: give a folder that save_pretrained wrote, or a hub id")
    return name


def check_base_folder(folder: Path) -> None:
    """Raise ModelError unless `folder` holds a config and safetensors weights of a base model."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"model.base {folder} is an adapter (it has adapter_config.json): "
            "set model.adapter to it and model.base to its base model"
        )
    if not (folder / "config.json").exists():
        raise ModelError(f"model.base {folder} has no config.json: give the folder that save_pretrained wrote")
    if any(_weight_files(folder)):
        return
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"model.base {folder} has only pickled weights ({pickled[0]}), which can run code when opened: "
            "convert them once to safetensors with AutoModelForCausalLM.from_pretrained(..).save_pretrained(..)"
        )
    raise ModelError(f"model.base {folder} has no *.safetensors weights: give the folder that save_pretrained wrote")


def adapter_folder(name: str) -> Path:
    """Return the local folder of a peft adapter with safetensors weights, fetched if it is a hub id."""
    place = local_or_hub(name, "model.adapter")
    if not Path(place).is_dir():
        try:
            hf_hub_download(place, "adapter_config.json")
            return Path(hf_hub_download(place, "adapter_model.safetensors")).parent
        except (OSError, ValueError) as error:
            raise ModelError(
                f"model.adapter {name} is no folder here and the hub does not give it ({first_line(error)}): "
                "give a folder that peft's save_pretrained wrote, or go online"
            ) from error
    folder = Path(place)
    if not (folder / "adapter_config.json").exists():
        raise ModelError(
            f"model.adapter {name} has no adapter_config.json: give the folder that peft's save_pretrained wrote"
        )
    if not (folder / "adapter_model.safetensors").exists():
        raise ModelError(
            f"model.adapter {name} has no adapter_model.safetensors: save it again with peft's save_pretrained "
            "(a pickled adapter_model.bin is not opened)"
        )
    return folder


def tensor_shapes(folder: Path) -> dict[str, torch.Size]:
    """Return name and shape of every tensor in the folder's safetensors files, from their headers alone.

    Raises ModelError for a file that is missing, cut short or no safetensors file.
    """
    shapes: dict[str, torch.Size] = {}
    for path in _weight_files(folder):
        try:
            with safe_open(path, framework="pt") as tensors:
                shapes |= {name: torch.Size(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read ({first_line(error)}): copy or download it again") from error
    return shapes


def check_finite_files(folder: Path) -> None:
    """Read the folder's weights, one tensor at a time. Raises ModelError for one with NaN or infinite values."""
    for path in _weight_files(folder):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if not bool(torch.isfinite(tensors.get_tensor(name)).all()):
                    raise ModelError(
                        f"{name} in {path} has NaN or infinite weights: the checkpoint is broken, give an earlier one"
                    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, for quoting in another."""
    return str(error).strip().split("\n", 1)[0].removesuffix(".")


def _weight_files(folder: Path) -> Iterator[Path]:
    for single in ("model.safetensors", "adapter_model.safetensors"):
        if (folder / single).exists():
            yield folder / single
            return
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            parts = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index} is broken ({first_line(error)}): copy or download it again") from error
        for part in parts:
            if not (folder / part).exists():
                raise ModelError(f"{index} names {part}, which is missing: copy or download it again")
            yield folder / part
