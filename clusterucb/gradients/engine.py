"""Per-sample gradients of a micro-batch, scored against the target in one forward and one backward pass.

Invariants: a sample's numbers are those it would have alone, whatever shares its batch; a sample that fails (no label
tokens, non-finite, zero gradient, too large for memory) is reported and disturbs no other; whole gradient vectors are
never held while scoring. `exact` scoring takes products with the target's mean unit gradients; `sketch` scoring
compares unit sketches, the official way, as they are kept: those of a store give the same.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clusterucb.checkpoint.layers import find_layers
from clusterucb.checkpoint.moments import Moments
from clusterucb.config import Gradients
from clusterucb.errors import ConfigError, ModelError
from clusterucb.gradients.collector import Collector, Consumer
from clusterucb.gradients.losses import SupervisedLoss
from clusterucb.gradients.memory_limit import MemoryLimit, Passes
from clusterucb.gradients.padding import labelled, padded
from clusterucb.gradients.preconditioner import Direction, PlainDirection, direction
from clusterucb.gradients.scorer import Keeper, StreamingScorer
from clusterucb.gradients.sketch import sketcher, unit_rows
from clusterucb.gradients.sketch_influence import sketch_influence
from clusterucb.gradients.targets import TargetBank, TargetPart
from clusterucb.types import Failure, FloatArray, Hidden, IntArray, Reason, Scores, TokenBatch

Number = TypeVar("Number", bound=np.generic)

_NO_TARGET = TargetBank((), (), {}, None, "")


@dataclass(frozen=True, slots=True, eq=False)
class SampleGradients:
    """Whole gradients: [B, *shape] by canonical parameter name."""

    samples_B: IntArray
    loss_B: FloatArray
    vectors: Mapping[str, Tensor]


class GradientEngine:
    """Takes gradients of `model` (in eval mode, nothing requiring a gradient) on `device`.

    Without moments the plain gradient is taken, and `notes` says so. Raises ModelError where layers or moments do not
    fit.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Gradients,
        moments: Moments | None,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
        passes: Passes | None = None,
    ) -> None:
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert not trained, f"{trained[0]} requires a gradient: freeze the model first"
        assert not model.training, "the model is in training mode: call eval() first"
        self._config = config
        self._device = device
        self._clock = clock
        self._layers = find_layers(model, config.modules)
        self._direction = direction(config.precondition, self._layers, moments, device)
        self._sketcher = sketcher(config.sketch, device)
        self.loss = SupervisedLoss(model, self._layers, config.loss_chunk)
        self._passes = passes
        self._memory = MemoryLimit(passes)
        self._prepared: tuple[TargetBank, Mapping[str, Tensor]] | None = None
        self.shapes: Mapping[str, torch.Size] = {layer.name: layer.shape for layer in self._layers}
        """Shape of every parameter whose gradient is taken, by canonical name."""
        plain = config.precondition.kind == "adam" and moments is None
        note = ("gradients: no Adam moments are given, so training gradients are taken as they are",) if plain else ()
        self.notes: tuple[str, ...] = (*note, *self.loss.notes)

    def forget(self) -> None:
        """Drop the target in hand and what was learned of the device's memory: the next batch is as the first."""
        self._memory = MemoryLimit(self._passes)
        self._prepared = None

    def score(self, batch: TokenBatch, bank: TargetBank) -> Scores:
        """Score a micro-batch against the target."""
        return self._scores(batch, bank, self._targets(bank))

    def sketches(self, batch: TokenBatch) -> Hidden:
        """Return the sketches of a micro-batch alone, with no target to compare them with."""
        scores = self._scores(batch, _NO_TARGET, {})
        assert scores.sketch_BD is not None, "gradients.sketch is none"
        return Hidden(scores.samples_B, scores.sketch_BD, scores.failures, scores.seconds)

    def _scores(self, batch: TokenBatch, bank: TargetBank, targets: Mapping[str, Tensor]) -> Scores:
        start = self._clock()
        usable, unlabelled = labelled(batch)
        parts, too_large = self._memory.run(usable, lambda piece: self._score(piece, bank, targets))
        failures = (*unlabelled, *too_large, *(failure for part in parts for failure in part.failures))
        subtasks, dim = len(bank.subtasks), 0 if self._sketcher is None else self._sketcher.dim
        sketches = [part.sketch_BD for part in parts if part.sketch_BD is not None]
        return Scores(
            samples_B=_joined([part.samples_B for part in parts], np.empty(0, np.int64)),
            influence_BS=_joined([part.influence_BS for part in parts], np.empty((0, subtasks), np.float32)),
            squared_norm_B=_joined([part.squared_norm_B for part in parts], np.empty(0, np.float32)),
            loss_B=_joined([part.loss_B for part in parts], np.empty(0, np.float32)),
            sketch_BD=_joined(sketches, np.empty((0, dim), np.float16)) if self._sketcher is not None else None,
            failures=_in_order(failures, batch),
            seconds=self._clock() - start,
        )

    def target(self, batch: TokenBatch, subtask: str) -> TargetPart:
        """Sum the unit plain gradients of examples of one subtask."""
        start = self._clock()
        usable, unlabelled = labelled(batch)
        parts, too_large = self._memory.run(usable, lambda piece: self._target(piece, subtask))
        failures = (*unlabelled, *too_large, *(failure for part in parts for failure in part.failures))
        sums = {layer.name: _summed([part.sums[layer.name] for part in parts], layer.shape) for layer in self._layers}
        sketches = [part.sketch_sum_D for part in parts if part.sketch_sum_D is not None]
        return TargetPart(
            subtask=subtask,
            samples_B=_joined([part.samples_B for part in parts], np.empty(0, np.int64)),
            loss_B=_joined([part.loss_B for part in parts], np.empty(0, np.float32)),
            sums=sums,
            sketch_sum_D=None if self._sketcher is None else _summed(sketches, (self._sketcher.dim,)),
            failures=_in_order(failures, batch),
            seconds=self._clock() - start,
        )

    def gradients(self, batch: TokenBatch, *, plain: bool = False) -> SampleGradients:
        """Return whole per-sample directions (or plain gradients) of a small batch, every sample labelled."""
        loss_B, keeper = self._keep(batch, PlainDirection() if plain else self._direction)
        vectors = {layer.name: layer.parameter(keeper.rows[layer.name]) for layer in self._layers}
        return SampleGradients(batch.samples_B, loss_B, vectors)

    def _score(self, batch: TokenBatch, bank: TargetBank, targets: Mapping[str, Tensor]) -> Scores:
        shape_BS = (len(batch), len(bank.subtasks))
        scorer = StreamingScorer(self._direction, targets, self._sketcher, shape_BS, self._device)
        loss_B = self._pass(batch, scorer)
        good, failures = _judged(batch, loss_B, scorer.squared_norm_B)
        rows = torch.from_numpy(good).to(self._device)
        sketch_BD = None if scorer.sketch_BD is None else unit_rows(scorer.sketch_BD[rows]).half().cpu().numpy()
        if self._config.scoring == "sketch":
            assert sketch_BD is not None
            assert bank.sketch_SD is not None
            influence_BS = sketch_influence(sketch_BD, bank.sketch_SD.cpu().numpy())
        else:
            exact_BS = scorer.products_BS[rows] / scorer.squared_norm_B[rows].sqrt()[:, None]
            influence_BS = exact_BS.float().cpu().numpy()
        return Scores(
            samples_B=batch.samples_B[good],
            influence_BS=influence_BS,
            squared_norm_B=scorer.squared_norm_B[rows].float().cpu().numpy(),
            loss_B=loss_B[good],
            sketch_BD=sketch_BD,
            failures=failures,
            seconds=0.0,
        )

    def _target(self, batch: TokenBatch, subtask: str) -> TargetPart:
        loss_B, keeper = self._keep(batch, PlainDirection())
        squared_norm_B = keeper.squared_norm_B()
        good, failures = _judged(batch, loss_B, squared_norm_B)
        rows = torch.from_numpy(good).to(self._device)
        scale_B = squared_norm_B[rows].rsqrt().float()
        sums: dict[str, FloatArray] = {}
        sketch_BD = None if self._sketcher is None else torch.zeros(len(good), self._sketcher.dim, device=self._device)
        for layer in self._layers:
            gradient_BP = keeper.rows.pop(layer.name)[rows]
            sums[layer.name] = layer.parameter(scale_B @ gradient_BP).contiguous().cpu().numpy()
            if self._sketcher is not None and sketch_BD is not None:
                self._sketcher.fold(layer.name, gradient_BP, sketch_BD)
        return TargetPart(
            subtask=subtask,
            samples_B=batch.samples_B[good],
            loss_B=loss_B[good],
            sums=sums,
            sketch_sum_D=None if sketch_BD is None else unit_rows(sketch_BD).sum(0).cpu().numpy(),
            failures=failures,
            seconds=0.0,
        )

    def _keep(self, batch: TokenBatch, direction: Direction) -> tuple[FloatArray, Keeper]:
        keeper = Keeper(self._layers, direction, len(batch), self._device)
        return self._pass(batch, keeper), keeper

    def _pass(self, batch: TokenBatch, consume: Consumer) -> FloatArray:
        tensors = padded(batch, self._device)
        shape_BT = (tensors.ids_BT.shape[0], tensors.ids_BT.shape[1])
        with torch.enable_grad(), Collector(self._layers, consume, shape_BT):
            return self.loss.backward(tensors)

    def _targets(self, bank: TargetBank) -> Mapping[str, Tensor]:
        """Return the bank's means in rows, on the device; raise where the bank belongs to other gradients."""
        if self._prepared is None or self._prepared[0] is not bank:
            self._check(bank)
            exact = self._config.scoring != "sketch"
            layers = self._layers if exact else ()
            self._prepared = (
                bank,
                {layer.name: layer.rows(bank.means[layer.name]).to(self._device) for layer in layers},
            )
        return self._prepared[1]

    def _check(self, bank: TargetBank) -> None:
        shapes = {name: mean.shape[1:] for name, mean in bank.means.items()}
        if shapes != self.shapes:
            name = sorted(set(shapes.items()) ^ set(self.shapes.items()))[0][0]
            raise ModelError(f"the target bank does not fit the model at {name}: compute the target with this model")
        dim = None if self._sketcher is None else self._sketcher.dim
        if self._config.scoring == "sketch" and (bank.sketch_SD is None or bank.sketch_SD.shape[1] != dim):
            raise ConfigError(
                f"gradients.scoring is sketch, of {dim} dimensions, but the target bank holds no sketches of that "
                "size: compute the target with this configuration"
            )


def _judged(batch: TokenBatch, loss_B: FloatArray, squared_norm_B: Tensor) -> tuple[IntArray, tuple[Failure, ...]]:
    """Return the rows that can be used, and why the others cannot."""
    norm_B = squared_norm_B.cpu().numpy()
    finite_B = np.isfinite(loss_B) & np.isfinite(norm_B)
    good_B = finite_B & (norm_B > 0)
    failures: list[Failure] = []
    for i in np.flatnonzero(~good_B):
        reason: Reason = "zero_gradient" if finite_B[i] else "non_finite"
        detail = "" if finite_B[i] else f"loss {loss_B[i]:g}, squared norm {norm_B[i]:g}"
        failures.append(Failure(int(batch.samples_B[i]), reason, detail))
    return np.flatnonzero(good_B), tuple(failures)


def _in_order(failures: tuple[Failure, ...], batch: TokenBatch) -> tuple[Failure, ...]:
    place = {int(sample): i for i, sample in enumerate(batch.samples_B)}
    return tuple(sorted(failures, key=lambda failure: place[failure.sample]))


def _joined(parts: Sequence[npt.NDArray[Number]], empty: npt.NDArray[Number]) -> npt.NDArray[Number]:
    return np.concatenate(parts) if parts else empty


def _summed(parts: Sequence[FloatArray], shape: tuple[int, ...]) -> FloatArray:
    total = np.zeros(shape, np.float32)
    for part in parts:
        total += part
    return total
