"""Per-sample weight gradients, formed inside the backward pass and handed on one layer at a time.

Inside the context every forward call of a hooked layer keeps its input, and a hook on its output takes the output's
gradient; their product over each sample's tokens is the gradient of that sample alone. Invariants: every layer is
handed to the consumer exactly once for every sample (zero where the sample did not reach it, summed where the layer
was called several times); nothing is kept after that; no weight, bias or embedding gradient is formed, and the
backward pass ends at the lowest hooked layer.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from clusterucb.checkpoint.layers import Layer
from clusterucb.errors import ModelError

Consumer = Callable[[Layer, slice, Tensor], None]
"""Takes a layer, the samples (rows of the batch) and their gradients [samples, P] in rows, which it may overwrite."""

ELEMENTS_AT_ONCE = 2**22
"""Gradients of a large layer are formed for fewer samples at a time: 16 MiB are in flight, whatever the batch."""


@dataclass(slots=True, eq=False)
class _Progress:
    """What a layer still waits for in this pass."""

    calls: int = 0
    answered: int = 0
    total_BP: Tensor | None = None
    handed_on: bool = False


class Collector:
    """Hook `layers` for one forward and backward pass over B samples, padded to T tokens each."""

    def __init__(self, layers: Sequence[Layer], consume: Consumer, shape_BT: tuple[int, int]) -> None:
        self._layers = layers
        self._consume = consume
        self._shape_BT = shape_BT
        self._progress = {layer.name: _Progress() for layer in layers}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> "Collector":
        for layer in self._layers:
            for module in layer.modules:
                self._handles.append(module.register_forward_hook(partial(self._after_forward, layer)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        if kind is None:
            for layer in self._layers:
                self._finish(layer)
        self._progress.clear()

    def _after_forward(self, layer: Layer, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not output.requires_grad:
            output = (
                output.requires_grad_().clone()
            )  # the clone may be changed in place by what follows, a leaf may not
        kept = inputs[0].detach()
        output.register_hook(partial(self._on_gradient, layer, kept, kept._version))
        self._progress[layer.name].calls += 1
        return output

    @torch.no_grad()
    def _on_gradient(self, layer: Layer, input_BTI: Tensor, version: int, gradient_BTO: Tensor) -> None:
        if input_BTI._version != version:
            raise ModelError(f"the model overwrites the input of {layer.name}: name other layers in gradients.modules")
        inputs, outputs = self._per_sample(layer, input_BTI), self._per_sample(layer, gradient_BTO)
        progress = self._progress[layer.name]
        progress.answered += 1
        if progress.calls == 1:
            progress.handed_on = True
            for part in self._parts(layer):
                self._consume(layer, part, layer.gradient(inputs[part], outputs[part]))
            return
        gradient = layer.gradient(inputs, outputs)
        progress.total_BP = gradient if progress.total_BP is None else progress.total_BP.add_(gradient)
        if progress.answered == progress.calls:
            self._finish(layer)

    @torch.no_grad()
    def _finish(self, layer: Layer) -> None:
        progress = self._progress[layer.name]
        if progress.handed_on:
            return
        progress.handed_on = True
        total_BP, progress.total_BP = progress.total_BP, None
        for part in self._parts(layer):
            if total_BP is not None:
                self._consume(layer, part, total_BP[part])
            else:
                samples = part.stop - part.start
                self._consume(layer, part, torch.zeros(samples, layer.size, device=layer.device))

    def _parts(self, layer: Layer) -> list[slice]:
        samples = self._shape_BT[0]
        step = max(1, ELEMENTS_AT_ONCE // layer.size)
        return [slice(start, min(start + step, samples)) for start in range(0, samples, step)]

    def _per_sample(self, layer: Layer, tensor: Tensor) -> Tensor:
        if tensor.ndim == 3 and tensor.shape[:2] == self._shape_BT:
            return tensor
        if tensor.ndim == 2 and tensor.shape[0] == self._shape_BT[0] * self._shape_BT[1]:
            return tensor.unflatten(0, self._shape_BT)
        raise ModelError(
            f"layer {layer.name} sees a tensor of shape {tuple(tensor.shape)} for {self._shape_BT[0]} samples of "
            f"{self._shape_BT[1]} tokens, so its tokens cannot be told apart by sample: name other layers in "
            "gradients.modules"
        )
