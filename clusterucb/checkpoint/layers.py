"""Which linear layers' weight gradients are taken, and how each one is laid out.

A gradient is formed as a matrix whose *longer axis comes last* ("rows"), whatever the layer's own layout: GPT-2's
Conv1D, nn.Linear and LoRA pairs then all stream through memory contiguously. `Layer.rows` and `Layer.parameter` go
between that layout and the parameter's own; sketches, Adam moments and target means meet in rows.
Biases of these layers are not part of the gradient.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from clusterucb.checkpoint.names import canonical_name
from clusterucb.errors import ModelError


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One weight: its canonical name, the modules that apply it (several where it is tied) and its layout."""

    name: str
    modules: tuple[nn.Module, ...]
    shape: torch.Size
    output_first: bool
    """Whether the parameter is [outputs, inputs] (nn.Linear) rather than [inputs, outputs] (Conv1D)."""

    @property
    def transposed(self) -> bool:
        """Whether rows are the transposed parameter."""
        return self.shape[0] > self.shape[1]

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the weight is."""
        return next(self.modules[0].parameters()).device

    def gradient(self, input_BTI: Tensor, output_gradient_BTO: Tensor) -> Tensor:
        """Sum input and output gradient over the tokens of each sample: [B, P], in rows, float32."""
        inputs, outputs = input_BTI.float(), output_gradient_BTO.float()
        left, right = (outputs, inputs) if self.output_first != self.transposed else (inputs, outputs)
        return torch.bmm(left.mT, right).flatten(1)

    def rows(self, parameter: Tensor) -> Tensor:
        """Flatten [..., *shape] to [..., P], in rows."""
        return (parameter.mT if self.transposed else parameter).flatten(-2)

    def parameter(self, rows: Tensor) -> Tensor:
        """Shape [..., P] back to [..., *shape]."""
        if not self.transposed:
            return rows.unflatten(-1, self.shape)
        return rows.unflatten(-1, self.shape[::-1]).mT


def find_layers(model: nn.Module, modules: Literal["lora"] | Sequence[str]) -> tuple[Layer, ...]:
    """List LoRA's A and B of every active adapter, or the linear layers whose path fully matches a regular expression.

    Paths are matched as the bare model spells them: `model.layers.3.mlp.down_proj`, with or without an adapter.
    Raises ModelError where nothing is found or a layer cannot be taken.
    """
    found = list(_lora_linears(model) if modules == "lora" else _named_linears(model, tuple(modules)))
    if not found and modules == "lora":
        raise ModelError("gradients.modules is lora but the model has no LoRA layer: give model.adapter or name layers")
    embedding = _embedding_weight(model)
    layers: dict[int, Layer] = {}
    for path, module in found:
        weight = module.weight
        assert isinstance(weight, Tensor)
        if weight is embedding:
            raise ModelError(
                f"layer {path} shares its weight with the input embedding, whose part of the gradient is not taken: "
                "name other layers in gradients.modules"
            )
        name = canonical_name(f"{path}.weight")
        if id(weight) in layers:
            first = layers[id(weight)]
            layers[id(weight)] = Layer(first.name, (*first.modules, module), first.shape, first.output_first)
        elif isinstance(module, Conv1D):
            layers[id(weight)] = Layer(name, (module,), torch.Size((module.nx, module.nf)), output_first=False)
        else:
            assert isinstance(module, nn.Linear)
            shape = torch.Size((module.out_features, module.in_features))
            layers[id(weight)] = Layer(name, (module,), shape, output_first=True)
    return tuple(layers.values())


def _lora_linears(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        for adapter in module.active_adapters:
            if adapter in module.lora_embedding_A or adapter in module.lora_variant:
                kind = type(module.lora_variant[adapter]).__name__ if adapter in module.lora_variant else "embedding"
                raise ModelError(
                    f"LoRA layer {canonical_name(path)} is of a kind ({kind}) whose gradient is not that of two linear "
                    "layers: use a plain LoRA adapter on linear layers"
                )
            for side in ("lora_A", "lora_B"):
                pairs: nn.ModuleDict = getattr(module, side)
                if adapter not in pairs:
                    continue
                if not isinstance(pairs[adapter], nn.Linear):
                    raise ModelError(
                        f"LoRA layer {canonical_name(path)} adapts a {type(module.get_base_layer()).__name__}: "
                        "use an adapter on linear layers"
                    )
                yield f"{path}.{side}.{adapter}", pairs[adapter]


def _named_linears(model: nn.Module, patterns: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    compiled = [_compiled(pattern) for pattern in patterns]
    used: set[str] = set()
    for path, module in model.named_modules():
        bare = canonical_name(path).removesuffix(".base_layer")
        matching = [pattern.pattern for pattern in compiled if pattern.fullmatch(bare)]
        if not matching or isinstance(module, LoraLayer):
            continue
        if isinstance(module, nn.Linear | Conv1D):
            used.update(matching)
            yield path, module
    for pattern in patterns:
        if pattern not in used:
            raise ModelError(
                f"gradients.modules names {pattern!r}, which matches no linear layer in full: a path looks like "
                f"{next(_linear_paths(model), 'nothing here: the model has no linear layer')}"
            )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ModelError(f"gradients.modules holds {pattern!r}, which is no regular expression: {error}") from error


def _linear_paths(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield canonical_name(path).removesuffix(".base_layer")


def _embedding_weight(model: nn.Module) -> Tensor | None:
    get = getattr(model, "get_input_embeddings", None)
    return getattr(get(), "weight", None) if get is not None else None
