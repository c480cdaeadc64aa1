"""Read Adam moments from DeepSpeed checkpoints: ZeRO 1, 2 and 3, written by any number of ranks, and universal ones.

DeepSpeed keeps moments flat and in pieces, one a rank. ZeRO 1 and 2 record where each parameter's piece lies; in
ZeRO 3 every parameter is cut in equal pieces, padded, in the order of `param_shapes`. Classes that DeepSpeed pickles
beside the tensors become harmless stand-ins, so DeepSpeed itself is neither imported nor trusted.
"""

import re
from pathlib import Path
from typing import Any, SupportsInt, cast

import torch

from clusterucb.checkpoint.moments import Moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.checkpoint.optimizer_states import load_safely
from clusterucb.errors import ModelError


class _Record:
    """Takes the attributes of a pickled object and none of its behaviour."""

    start: int
    numel: int


_STAND_INS: dict[str, type] = {
    "deepspeed.runtime.zero.config.ZeroStageEnum": int,
    "deepspeed.runtime.fp16.loss_scaler.LossScaler": _Record,
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler": _Record,
    "deepspeed.utils.tensor_fragment.fragment_address": _Record,
}
_KINDS = ("exp_avg", "exp_avg_sq")


def find_deepspeed(path: Path) -> Path | None:
    """Return the DeepSpeed checkpoint folder that `path` is or holds: the one that `latest` names, else the last."""
    if not path.is_dir():
        return None
    if _is_checkpoint(path):
        return path
    latest = path / "latest"
    if latest.exists() and _is_checkpoint(path / latest.read_text().strip()):
        return path / latest.read_text().strip()
    steps = [folder for folder in path.glob("global_step*") if _is_checkpoint(folder)]
    return max(steps, key=lambda folder: int(re.sub(r"\D", "", folder.name) or 0), default=None)


def read_deepspeed(folder: Path) -> Moments:
    """Return the moments in a `global_step*` folder. Raises ModelError for what is incomplete or split by tensors."""
    if (folder / "zero").is_dir():
        return _read_universal(folder)
    files = sorted(folder.glob("*_optim_states.pt"), key=_rank)
    if not all("mp_rank_00_" in file.name for file in files) or any(folder.glob("layer_*")):
        raise ModelError(
            f"model.moments {folder} is split by tensor or pipeline parallelism: "
            "convert it once with DeepSpeed's ds_to_universal and give the folder it writes"
        )
    contents = [load_safely(file, _STAND_INS) for file in files]
    try:
        states = [cast(dict[str, Any], content["optimizer_state_dict"]) for content in contents]
        count = cast(list[int] | int, states[0]["partition_count"])
        ranks = max(count) if isinstance(count, list) else count
        if ranks != len(files):
            raise ModelError(
                f"model.moments {folder} was written by {ranks} ranks and has {len(files)} files: copy them all"
            )
        shapes = _shapes(folder)
        stage = int(states[0].get("zero_stage", 1))  # DeepSpeed's bf16 optimizer, laid out like stage 1, writes none
        pieces = _stage_3(states, shapes) if stage == 3 else _stage_1_or_2(states)
        steps = {_step(state) for state in states}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelError(
            f"model.moments {folder} is not laid out as DeepSpeed with Adam lays it out (at {error}): convert it once "
            "with DeepSpeed's ds_to_universal and give the folder it writes"
        ) from error
    merged = {kind: _merge(folder, kind, pieces, shapes) for kind in _KINDS}
    return Moments(merged["exp_avg"], merged["exp_avg_sq"], max((s for s in steps if s is not None), default=None))


def _is_checkpoint(folder: Path) -> bool:
    return any(folder.glob("*_optim_states.pt")) or any(folder.glob("zero/*/exp_avg.pt"))


def _rank(file: Path) -> int:
    found = re.search(r"pp_rank_(\d+)", file.name)
    return int(found.group(1)) if found else 0


def _shapes(folder: Path) -> list[dict[str, torch.Size]]:
    """Return name and shape of the trained parameters, a dict for each group, in the order they lie in memory."""
    files = sorted(folder.glob("*mp_rank_00_model_states.pt"), key=_rank)
    if not files:
        raise ModelError(f"model.moments {folder} has no *_model_states.pt, which name the parameters: copy it too")
    return [dict(group) for group in load_safely(files[0], _STAND_INS)["param_shapes"]]


def _groups(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the inner optimizer's state of each group: a list in elastic checkpoints, else a dict by number."""
    inner = state["base_optimizer_state"] if "base_optimizer_state" in state else state["optimizer_state_dict"]
    if isinstance(inner, list):
        return cast(list[dict[str, Any]], inner)
    by_number = cast(dict[int, dict[str, Any]], inner["state"])
    return [by_number[number] for number in sorted(by_number)]


def _stage_1_or_2(states: list[dict[str, Any]]) -> dict[tuple[str, str], list[torch.Tensor]]:
    """Return each parameter's pieces in the order of the ranks, by (moment, name)."""
    pieces: dict[tuple[str, str], list[torch.Tensor]] = {}
    for state in states:
        for group, places in zip(_groups(state), state["param_slice_mappings"], strict=True):
            for name, place in cast(dict[str, _Record], places).items():
                for kind in _KINDS:
                    flat = cast(torch.Tensor, group[kind])
                    pieces.setdefault((kind, name), []).append(flat[place.start : place.start + place.numel])
    return pieces


def _stage_3(
    states: list[dict[str, Any]], shapes: list[dict[str, torch.Size]]
) -> dict[tuple[str, str], list[torch.Tensor]]:
    pieces: dict[tuple[str, str], list[torch.Tensor]] = {}
    for state in states:
        for group, own in zip(_groups(state), shapes, strict=True):
            start = 0
            for name, size in own.items():
                width = -(-size.numel() // len(states))
                for kind in _KINDS:
                    flat = cast(torch.Tensor, group[kind])
                    pieces.setdefault((kind, name), []).append(flat[start : start + width])
                start += width
    return pieces


def _merge(
    folder: Path, kind: str, pieces: dict[tuple[str, str], list[torch.Tensor]], shapes: list[dict[str, torch.Size]]
) -> dict[str, torch.Tensor]:
    merged: dict[str, torch.Tensor] = {}
    for name, size in ((name, size) for group in shapes for name, size in group.items()):
        parts = pieces.get((kind, name), [])
        flat = torch.cat(parts) if parts else torch.empty(0)
        if not 0 <= flat.numel() - size.numel() < max(len(parts), 1):  # padding is less than one a rank
            raise ModelError(
                f"model.moments {folder} has {flat.numel()} numbers of {kind} for {name}, which has {size.numel()}: "
                "convert it once with DeepSpeed's ds_to_universal and give the folder it writes"
            )
        merged[canonical_name(name)] = flat[: size.numel()].view(size).float().clone()
    return merged


def _step(state: dict[str, Any]) -> int | None:
    for group in _groups(state):
        if "step" in group:
            return int(cast(SupportsInt, group["step"]))
    return None


def _read_universal(folder: Path) -> Moments:
    merged: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in _KINDS}
    for parameter in sorted(path for path in (folder / "zero").iterdir() if path.is_dir()):
        for kind in _KINDS:
            if (parameter / f"{kind}.pt").exists():
                tensor = load_safely(parameter / f"{kind}.pt", _STAND_INS)["param"]
                merged[kind][canonical_name(parameter.name)] = cast(torch.Tensor, tensor).float()
    return Moments(merged["exp_avg"], merged["exp_avg_sq"], None)
