"""The target as gradients: for every subtask the mean of its examples' unit gradients.

The influence of a sample with unit direction u on a subtask of n examples with unit gradients t_j is
mean_j <u, t_j> = <u, mean_j t_j>: the mean is all that need be kept, and it is *not* scaled to unit length again.
Targets use plain gradients, without preconditioning. Workers sum (`TargetPart`); parts are combined in planned order,
in float64, so that the bank does not depend on who computed what.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from clusterucb.errors import DataError
from clusterucb.types import Failure, FloatArray, IntArray

_SKETCH = "sketch"
_MEAN = "mean/"


@dataclass(frozen=True, slots=True, eq=False)
class TargetPart:
    """Unit plain gradients of some examples of one subtask, summed. `sums` goes by canonical parameter name."""

    subtask: str
    samples_B: IntArray
    loss_B: FloatArray
    sums: Mapping[str, FloatArray]
    sketch_sum_D: FloatArray | None
    failures: tuple[Failure, ...]
    seconds: float

    @property
    def count(self) -> int:
        """Examples in the sums; failed ones are not."""
        return len(self.samples_B)


@dataclass(frozen=True, slots=True, eq=False)
class TargetBank:
    """What samples are compared with: [S, *shape] float32 by canonical parameter name, and [S, D] of the sketches."""

    subtasks: tuple[str, ...]
    counts: tuple[int, ...]
    means: Mapping[str, Tensor]
    sketch_SD: Tensor | None
    fingerprint: str
    """Digest of everything above."""

    @property
    def space(self) -> str:
        """Digest of the parameters' names and shapes: gradients of one space can be compared."""
        return space_of({name: tuple(mean.shape[1:]) for name, mean in self.means.items()})

    def to(self, device: torch.device) -> "TargetBank":
        """Return the bank on a device."""
        sketch_SD = None if self.sketch_SD is None else self.sketch_SD.to(device)
        return replace(self, means={name: mean.to(device) for name, mean in self.means.items()}, sketch_SD=sketch_SD)

    def save(self, path: Path) -> None:
        """Write one safetensors file; it appears whole or not at all."""
        tensors = {_MEAN + name: mean.contiguous().cpu() for name, mean in self.means.items()}
        if self.sketch_SD is not None:
            tensors[_SKETCH] = self.sketch_SD.contiguous().cpu()
        metadata = {"subtasks": json.dumps(self.subtasks), "counts": json.dumps(self.counts)}
        partial = path.with_name(f"{path.name}.partial")
        save_file(tensors, partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    @staticmethod
    def load(path: Path) -> "TargetBank":
        """Read what `save` wrote; raises DataError where the file is something else."""
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "subtasks" not in metadata or "counts" not in metadata:
                raise DataError(
                    f"{path} is no target bank: it lacks the subtasks; remove it to compute the target anew"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sketch_SD = tensors.pop(_SKETCH, None)
        means = {name.removeprefix(_MEAN): tensor for name, tensor in tensors.items()}
        return _bank(tuple(json.loads(metadata["subtasks"])), tuple(json.loads(metadata["counts"])), means, sketch_SD)


def space_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Return the digest of parameters by name."""
    named = sorted((name, list(shape)) for name, shape in shapes.items())
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:16]


def saved_space(path: Path) -> str:
    """Return the space of a bank that `TargetBank.save` wrote, without reading its numbers."""
    with safe_open(path, framework="pt") as file:
        means = [name for name in file.keys() if name.startswith(_MEAN)]  # noqa: SIM118
        return space_of({name.removeprefix(_MEAN): tuple(file.get_slice(name).get_shape()[1:]) for name in means})


def combine(subtasks: Sequence[str], parts: Sequence[TargetPart]) -> TargetBank:
    """Average the parts by subtask, in the order given; raises DataError where a subtask has no usable example."""
    of = {subtask: [part for part in parts if part.subtask == subtask] for subtask in subtasks}
    counts = tuple(sum(part.count for part in of[subtask]) for subtask in subtasks)
    for subtask, count in zip(subtasks, counts, strict=True):
        if count == 0:
            raise DataError(_unusable(subtask, of[subtask]))
    useful = {subtask: [part for part in of[subtask] if part.count] for subtask in subtasks}
    names = useful[subtasks[0]][0].sums.keys()
    means = {
        name: torch.from_numpy(
            np.stack(
                [
                    _mean([part.sums[name] for part in useful[subtask]], n)
                    for subtask, n in zip(subtasks, counts, strict=True)
                ]
            )
        )
        for name in names
    }
    sketches: list[FloatArray] = []
    for subtask, count in zip(subtasks, counts, strict=True):
        sums = [part.sketch_sum_D for part in useful[subtask] if part.sketch_sum_D is not None]
        if sums:
            sketches.append(_mean(sums, count))
    sketch_SD = torch.from_numpy(np.stack(sketches)) if sketches else None
    return _bank(tuple(subtasks), counts, means, sketch_SD)


def _mean(sums: Sequence[FloatArray], count: int) -> FloatArray:
    total = np.zeros(sums[0].shape, dtype=np.float64)
    for part in sums:
        total += part
    return (total / count).astype(np.float32)


def _unusable(subtask: str, parts: Sequence[TargetPart]) -> str:
    failures = [failure for part in parts for failure in part.failures]
    reasons = ", ".join(sorted({failure.reason for failure in failures})) or "there is none"
    return (
        f"target subtask {subtask!r} has no usable example of {len(failures)} ({reasons}): "
        "mend or remove its rows, or check that the model's loss is finite on them"
    )


def _bank(
    subtasks: tuple[str, ...], counts: tuple[int, ...], means: Mapping[str, Tensor], sketch_SD: Tensor | None
) -> TargetBank:
    digest = hashlib.sha256(json.dumps([subtasks, counts]).encode())
    named = [*sorted(means.items()), *([] if sketch_SD is None else [(_SKETCH, sketch_SD)])]
    for name, tensor in named:
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return TargetBank(subtasks, counts, means, sketch_SD, digest.hexdigest()[:16])
