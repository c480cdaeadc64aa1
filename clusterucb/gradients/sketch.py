"""Random projections of gradients that keep inner products: D numbers a sample.

Both sketches are linear maps fixed by (seed, canonical parameter name) alone, drawn from numpy's Philox, a counter
based generator: every process and device applies the same map, in whatever order the layers come. Each has
E<Sx, Sy> = <x, y>, with an error of about |x||y| / sqrt(D).

HashSketch: coordinate i of a parameter, in rows, is added with a random sign to bucket

    (offset + i + shift * floor(i / D)) mod D

that is, the flat gradient is cut into stretches of D and each is turned further than the last. Within a stretch nothing
collides; across stretches `shift`, drawn coprime to D for every parameter, keeps the columns of a matrix from falling
on each other again and again whatever its width: a plain fold modulo D sums the outlier channels that activations of
language models have into a handful of buckets. Every addition runs over contiguous memory in a fixed order: no
indices are stored and no atomics are used.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clusterucb.config import HashSketch, RademacherSketch, Sketch

_COORDINATES_AT_ONCE = 256


class Sketcher(Protocol):
    """A linear map from gradients to D numbers, applied parameter by parameter."""

    dim: int

    def fold(self, name: str, rows_BP: Tensor, sketch_BD: Tensor) -> None:
        """Add the sketch of one parameter's gradients [B, P], in rows, to `sketch_BD` (float32)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Placing:
    """Where and with which signs one copy of a parameter goes."""

    signs_P: Tensor
    offset: int
    shift: int


class SignedHash:
    """The sparse signed hash, `nonzeros` independent copies of it."""

    def __init__(self, config: HashSketch, device: torch.device) -> None:
        self.dim = config.dim
        self._config = config
        self._device = device
        self._placings: dict[str, tuple[_Placing, ...]] = {}

    def fold(self, name: str, rows_BP: Tensor, sketch_BD: Tensor) -> None:
        """Add the sketch of one parameter's gradients."""
        if name not in self._placings:
            copies = range(self._config.nonzeros)
            self._placings[name] = tuple(self._placing(name, rows_BP.shape[1], copy) for copy in copies)
        for placing in self._placings[name]:
            self._add(placing, rows_BP, sketch_BD)

    def _placing(self, name: str, size: int, copy: int) -> _Placing:
        philox = _philox("hash", self._config.seed, name, copy)
        dim = self.dim
        offset = int(philox.random_raw()) % dim
        shift = 1 + int(philox.random_raw()) % (dim // 4)
        while math.gcd(shift, dim) != 1:
            shift = 1 + shift % (dim // 4)
        signs_P = torch.from_numpy(_signs(philox, size)).to(self._device)
        return _Placing(signs_P.mul_(self._config.nonzeros**-0.5), offset, shift)

    def _add(self, placing: _Placing, rows_BP: Tensor, sketch_BD: Tensor) -> None:
        (batch, size), dim = rows_BP.shape, self.dim
        if size <= dim:
            _add_turned(rows_BP * placing.signs_P, placing.offset, sketch_BD)
            return
        whole, rest = divmod(size, dim)
        span = dim + placing.shift
        laid = rows_BP.new_zeros(batch, -(-(whole * span + rest) // dim) * dim)
        stretches = laid[:, : whole * span].unflatten(1, (whole, span))[:, :, :dim]
        cut = whole * dim
        torch.mul(rows_BP[:, :cut].unflatten(1, (whole, dim)), placing.signs_P[:cut].view(whole, dim), out=stretches)
        torch.mul(rows_BP[:, cut:], placing.signs_P[cut:], out=laid[:, whole * span : whole * span + rest])
        _add_turned(laid.unflatten(1, (-1, dim)).sum(1), placing.offset, sketch_BD)


class DenseSigns:
    """Every bucket sums every coordinate with a random sign; the matrix is drawn anew, block by block, at each use."""

    def __init__(self, config: RademacherSketch, device: torch.device) -> None:
        self.dim = config.dim
        self._seed = config.seed
        self._device = device

    def fold(self, name: str, rows_BP: Tensor, sketch_BD: Tensor) -> None:
        """Add the sketch of one parameter's gradients."""
        size = rows_BP.shape[1]
        for start in range(0, size, _COORDINATES_AT_ONCE):
            stop = min(start + _COORDINATES_AT_ONCE, size)
            philox = _philox("rademacher", self._seed, name, start)
            signs = torch.from_numpy(_signs(philox, (stop - start) * self.dim)).to(self._device)
            sketch_BD.addmm_(rows_BP[:, start:stop], signs.view(stop - start, self.dim), alpha=self.dim**-0.5)


def sketcher(config: Sketch, device: torch.device) -> Sketcher | None:
    """Build the configured sketch; none where no sketches are kept."""
    match config:
        case HashSketch():
            return SignedHash(config, device)
        case RademacherSketch():
            return DenseSigns(config, device)
        case _:
            return None


def unit_rows(rows_BD: Tensor) -> Tensor:
    """Scale every row to length one; a zero row stays zero."""
    norm_B1 = torch.linalg.vector_norm(rows_BD, dim=1, keepdim=True)
    return rows_BD / norm_B1.masked_fill(norm_B1 == 0, 1.0)


def _add_turned(rows_BP: Tensor, offset: int, sketch_BD: Tensor) -> None:
    size, dim = rows_BP.shape[1], sketch_BD.shape[1]
    first = min(size, dim - offset)
    sketch_BD[:, offset : offset + first] += rows_BP[:, :first]
    if first < size:
        sketch_BD[:, : size - first] += rows_BP[:, first:]


def _philox(kind: str, seed: int, name: str, part: int) -> np.random.Philox:
    digest = hashlib.sha256(f"{kind}/{seed}/{part}/{name}".encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def _signs(philox: np.random.Philox, count: int) -> npt.NDArray[np.float32]:
    words = philox.random_raw(-(-count // 64)).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8), count=count, bitorder="little")
    return bits.astype(np.float32) * 2 - 1
