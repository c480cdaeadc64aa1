"""Weights that lie in shares on the ranks of a gang and are whole only while they are used.

A *unit* (a block, the embedding, the output embedding) is gathered from all ranks when its forward call begins, or when
the backward pass comes to one of its weights, and stays until another unit is needed or the pass ends; where the order
of a pass is known, the next unit travels while this one computes. Invariants: at most one unit is whole at a time;
every rank gathers the same units in the same order, provided all of them run the same passes; weights saved for the
backward pass are saved by name, so that no pass keeps what it gathered; between passes a rank holds its shares, and
whole only the small weights beside the blocks, such as the last norm.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, distributed, nn
from torch.autograd.graph import saved_tensors_hooks

# The newer name of the same operation, where torch has it.
_all_gather = getattr(
    distributed, "all_gather_single" if hasattr(distributed, "all_gather_single") else "all_gather_into_tensor"
)


class PeerLostError(Exception):
    """The other ranks could not be reached: this one can do nothing alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """A rank's part of a weight, all parts of one length: the last one is padded."""

    part: Tensor
    shape: torch.Size


@dataclass(frozen=True, slots=True)
class HeldBytes:
    """Base weights: of the model, and of these what a rank holds between passes."""

    whole: int
    held: int


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Weights that are gathered at once."""

    parameters: tuple[nn.Parameter, ...]
    bytes_B: Tensor
    """This rank's shares of them, end to end."""


@dataclass(frozen=True, slots=True, eq=False)
class _Coming:
    """A unit under way; `everyone` [ranks, bytes] is there when `work` is done."""

    unit: Unit
    everyone: Tensor
    work: distributed.Work


@dataclass(frozen=True, slots=True, eq=False)
class _Saved:
    """A view of a weight, kept for the backward pass without its content."""

    parameter: nn.Parameter
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class GatheredWeights:
    """Gathers the weights of `model` whose `shares` this rank holds. The process group decides who the others are."""

    def __init__(self, model: nn.Module, shares: Mapping[nn.Parameter, Share]) -> None:
        self._shares = dict(shares)
        self._rank, self._count = distributed.get_rank(), distributed.get_world_size()
        self._whole: Unit | None = None
        self._by_storage: dict[int, nn.Parameter] = {}
        self._units: dict[nn.Parameter, Unit] = {}
        self._coming: _Coming | None = None
        self._gathered: list[Unit] = []
        self._expected: Sequence[Unit] = ()
        for module, parameters in _cut(model, self._shares):
            unit = self._unit(parameters)
            module.register_forward_pre_hook(partial(self._before_forward, unit))
        kept = tuple(parameter for parameter in self._shares if parameter not in self._units)
        if kept:
            self._make_whole(self._unit(kept))
            for parameter in kept:
                del self._shares[parameter], self._units[parameter]
            self._by_storage.clear()
            self._whole = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self._shares)).device

    def own(self, parameter: nn.Parameter) -> Tensor:
        """Return what this rank holds of a parameter between passes, without padding."""
        share = self._shares.get(parameter)
        if share is None:
            return parameter.detach()
        length = len(share.part)
        return share.part[: max(0, min(length, share.shape.numel() - self._rank * length))]

    def held(self, model: nn.Module) -> HeldBytes:
        """Measure the base weights; an adapter's are left out."""
        base = [parameter for name, parameter in model.named_parameters() if ".lora_" not in name]
        shapes = {parameter: share.shape for parameter, share in self._shares.items()}
        whole = sum(shapes.get(parameter, parameter.shape).numel() * parameter.itemsize for parameter in base)
        shares = sum(unit.bytes_B.numel() for unit in {id(unit): unit for unit in self._units.values()}.values())
        return HeldBytes(whole, shares + sum(parameter.untyped_storage().nbytes() for parameter in base))

    @contextmanager
    def in_use(self) -> Generator[None]:
        """Let a pass run, between `start` and `finish`: its backward pass, too, must come within."""
        with saved_tensors_hooks(self._pack, self._unpack):
            yield

    def start(self, expected: Sequence[Unit] = ()) -> None:
        """Begin a pass; `expected` are the units it will gather, in order, where that is known."""
        self._release()
        self._gathered = []
        self._expected = expected

    def finish(self) -> list[Unit]:
        """End a pass: gather what the others still expect, give everything up, and return what this pass gathered."""
        self._release()
        if self._coming is not None:
            self._arrived(self._coming.unit)
        while len(self._gathered) < len(self._expected):
            self._arrived(self._expected[len(self._gathered)])
        self._expected = ()
        return self._gathered

    def any_rank(self, here: bool) -> bool:
        """Whether this holds on any rank; all of them must ask."""
        flag = torch.tensor([here], dtype=torch.int32, device=self.device)
        with _reaching():
            distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag.item())

    def _before_forward(self, unit: Unit, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._gather(unit)

    def _unit(self, members: Sequence[nn.Parameter]) -> Unit:
        parameters = sorted(members, key=lambda parameter: -parameter.itemsize)  # so that every share is aligned
        known = self._units.get(parameters[0])
        if known is not None and list(map(id, known.parameters)) == list(map(id, parameters)):
            return known  # tied weights
        bytes_B = torch.cat([self._shares[parameter].part.detach().view(torch.uint8) for parameter in parameters])
        unit = Unit(tuple(parameters), bytes_B)
        start = 0
        for parameter in parameters:
            share = self._shares[parameter]
            stop = start + share.part.nbytes
            share.part.data = bytes_B[start:stop].view(share.part.dtype)
            start = stop
            self._units[parameter] = unit
        return unit

    def _gather(self, unit: Unit) -> None:
        """Make a unit whole, in place of the one before."""
        if self._whole is not unit:
            self._release()
            with torch.inference_mode(False), torch.no_grad():  # weights outlive a pass in inference mode
                self._make_whole(unit)
                self._look_ahead()

    def _release(self) -> None:
        if self._whole is not None:
            with torch.inference_mode(False):
                for parameter in self._whole.parameters:
                    parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
        self._whole = None
        self._by_storage.clear()

    def _make_whole(self, unit: Unit) -> None:
        everyone = self._arrived(unit)
        self._whole = unit  # from here on there is something to release
        start = 0
        for parameter in unit.parameters:
            share = self._shares[parameter]
            stop = start + share.part.nbytes
            values = everyone[:, start:stop].reshape(-1).view(parameter.dtype)
            parameter.data = values[: share.shape.numel()].view(share.shape)
            self._by_storage[parameter.untyped_storage().data_ptr()] = parameter
            start = stop

    def _look_ahead(self) -> None:
        place = len(self._gathered)
        if place < len(self._expected):
            with suppress(torch.OutOfMemoryError):  # then it comes when it is needed
                self._coming = self._send(self._expected[place])

    def _arrived(self, unit: Unit) -> Tensor:
        """Return the shares of all ranks, [ranks, bytes], which may be under way."""
        coming, self._coming = self._coming or self._send(unit), None
        assert coming.unit is unit, "this pass gathers other weights than the first of its kind"
        with _reaching():
            coming.work.wait()
        return coming.everyone

    def _send(self, unit: Unit) -> _Coming:
        length = unit.bytes_B.numel()
        everyone = torch.empty(self._count * length, dtype=torch.uint8, device=unit.bytes_B.device)
        with _reaching():
            work = _all_gather(everyone, unit.bytes_B, async_op=True)
        self._gathered.append(unit)
        return _Coming(unit, everyone.view(self._count, length), work)

    def _pack(self, tensor: Tensor) -> Tensor | _Saved:
        parameter = self._by_storage.get(tensor.untyped_storage().data_ptr())
        if parameter is None or parameter.dtype != tensor.dtype:
            return tensor
        return _Saved(parameter, tensor.shape, tensor.stride(), int(tensor.storage_offset()))

    def _unpack(self, saved: Tensor | _Saved) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        self._gather(self._units[saved.parameter])
        return saved.parameter.data.as_strided(saved.size, saved.stride, saved.offset)


def _cut(
    model: nn.Module, shares: Mapping[nn.Parameter, Share]
) -> Iterator[tuple[nn.Module, tuple[nn.Parameter, ...]]]:
    """List the modules that are gathered at once, and their weights: the blocks, as the model's class names them, and
    every module beside them that holds a matrix and no other module. What is not listed stays whole."""
    blocks = _block_classes(model)
    waiting = [model]
    while waiting:
        module = waiting.pop()
        is_block = type(module).__name__ in blocks
        own = tuple(parameter for parameter in module.parameters(recurse=is_block) if parameter in shares)
        if is_block:
            yield module, own
            continue
        children = list(module.children())
        large = tuple(parameter for parameter in own if len(shares[parameter].shape) > 1)
        if large and not children:
            yield module, large
        waiting += reversed(children)


def _block_classes(model: nn.Module) -> set[str]:
    found: set[str] = set()
    for module in model.modules():
        found.update(getattr(module, "_no_split_modules", None) or ())
    return found


@contextmanager
def _reaching() -> Generator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # what torch raises where a peer's connection closes or time runs out
        raise PeerLostError(f"the other ranks of the gang cannot be reached: {error}") from error
