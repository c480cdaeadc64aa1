"""Read Adam moments from a torch optimizer's state dict: transformers' `optimizer.pt`, FSDP's `optimizer.bin`.

FSDP names its parameters. A plain state dict only numbers them, group by group in the order the optimizer was given;
the groups' layout is recovered by the known rules of trainers, and every tensor's shape must then agree.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import nn

from clusterucb.checkpoint.checkpoint_files import first_line
from clusterucb.checkpoint.moments import Moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.errors import ModelError

_FILES = ("optimizer.pt", "optimizer.bin")
# The names that transformers' Trainer leaves without weight decay.
_NO_DECAY = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)", re.IGNORECASE)

# Which group a parameter was put in, by trainer: the first rule under which sizes and shapes agree is taken.
_LAYOUTS: tuple[Callable[[str, torch.Size], int], ...] = (
    lambda name, size: 0,
    lambda name, size: int(bool(_NO_DECAY.search(name))),
    lambda name, size: int(bool(_NO_DECAY.search(name)) or len(size) < 2),
    lambda name, size: int(".lora_B." in name),  # LoRA+: another learning rate for B
)


def find_optimizer_file(path: Path) -> Path | None:
    """Return the optimizer state that `path` is or holds."""
    if path.is_file():
        return path
    for name in _FILES:
        if (path / name).exists():
            return path / name
    return None


def read_optimizer_file(path: Path, model: nn.Module) -> Moments:
    """Return the moments in a state dict written by torch.save.

    Raises ModelError for a file that is no Adam state, needs unsafe unpickling or does not fit `model`.
    """
    content = _unwrapped(load_safely(path, {}))
    try:
        states = cast(dict[Any, dict[str, Any]], content["state"])
        groups = cast(list[dict[str, Any]], content["param_groups"])
        filled = {key: state for key, state in states.items() if state}
        names = _named(groups, _trained(model), filled, path)
        exp_avg = {names[key]: state["exp_avg"].float() for key, state in filled.items()}
        exp_avg_sq = {names[key]: state["exp_avg_sq"].float() for key, state in filled.items()}
        steps = {int(state["step"]) for state in filled.values() if "step" in state}
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is no state of Adam or AdamW (no {error} where it belongs): other optimizers, 8-bit ones "
            "included, have no moments that fit; train the checkpoint with AdamW"
        ) from error
    if not exp_avg:
        raise ModelError(f"{path} has no moments yet: its optimizer made no step")
    return Moments(exp_avg, exp_avg_sq, max(steps, default=None))


def load_safely(path: Path, stand_ins: Mapping[str, type]) -> dict[str, Any]:
    """Unpickle tensors and plain containers; classes named in `stand_ins` become those harmless types instead.

    Raises ModelError for anything else.
    """
    content = unpickled_safely(path, path, stand_ins)
    if not isinstance(content, dict):
        raise ModelError(
            f"{path} holds a {type(content).__name__}, not an optimizer state: give optimizer.pt or optimizer.bin"
        )
    return cast(dict[str, Any], content)


def unpickled_safely(source: Path | BinaryIO, path: Path, stand_ins: Mapping[str, type]) -> object:
    """Do the same for anything that torch.save wrote, be it a part of the file at `path`."""
    allowed = [(kind, name) for name, kind in stand_ins.items()]
    try:
        with torch.serialization.safe_globals(allowed):  # pyright: ignore[reportArgumentType]
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it needs {unsafe.group(1)}" if unsafe else first_line(error)
        raise ModelError(
            f"{path} cannot be opened without running code from it ({what}): read it where you trust it and "
            "write the moments with clusterucb.checkpoint.moments.save_moments"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({first_line(error)}): copy it again") from error


def _unwrapped(content: dict[str, Any]) -> dict[str, Any]:
    """Return the optimizer state inside `{"optimizer": ..}`, as dcp_to_torch_save leaves what accelerate saved."""
    dicts = [cast(dict[str, Any], value) for value in content.values() if isinstance(value, dict)]
    inner = [value for value in dicts if "param_groups" in value]
    return content if "state" in content or len(inner) != 1 else inner[0]


def _trained(model: nn.Module) -> dict[str, torch.Size]:
    """Return the parameters that training updates, in the model's order: the adapter's, or all where there is none."""
    every = {name: parameter.shape for name, parameter in model.named_parameters()}
    adapter = {name: size for name, size in every.items() if ".lora_" in name or ".modules_to_save." in name}
    return {canonical_name(name): size for name, size in (adapter or every).items()}


def _named(
    groups: list[dict[str, Any]], trainable: Mapping[str, torch.Size], states: Mapping[Any, dict[str, Any]], path: Path
) -> dict[Any, str]:
    """Return the canonical name of every key of the state."""
    names: dict[Any, str] = {key: canonical_name(key) for key in states if isinstance(key, str)}
    for group in groups:  # recent torch keeps the names where the optimizer was given them
        names |= {
            key: canonical_name(name) for key, name in zip(group["params"], group.get("param_names", ()), strict=False)
        }
    if all(key in names for key in states):
        return names
    keys = [list[Any](group["params"]) for group in groups if group["params"]]
    for layout in _LAYOUTS:
        parts: dict[int, list[str]] = {}
        for name, size in trainable.items():
            parts.setdefault(layout(name, size), []).append(name)
        candidate = [parts[i] for i in sorted(parts)]
        if [len(part) for part in candidate] != [len(part) for part in keys]:
            continue
        names = {
            key: name for part, own in zip(keys, candidate, strict=True) for key, name in zip(part, own, strict=True)
        }
        if all(state["exp_avg"].shape == trainable[names[key]] for key, state in states.items()):
            return names
    count = sum(len(part) for part in keys)
    raise ModelError(
        f"{path} numbers {count} parameters in {len(keys)} groups and the model trains {len(trainable)}, "
        "which do not fit in number, order or shape: it belongs to another adapter or model, or its training grouped "
        "parameters in its own way; then name them and write them with clusterucb.checkpoint.moments.save_moments"
    )
