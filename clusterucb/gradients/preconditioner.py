"""The direction in which one Adam step would move the weights, were the sample alone in its batch.

With b1, b2, eps and the checkpoint's moments m, v (LESS, eq. of section 3.1; no bias correction, no learning rate):

    m' = b1 m + (1 - b1) g      v' = b2 v + (1 - b2) g^2      direction = m' / sqrt(v' + eps)

`eps_inside_root: false` gives the textbook's m' / (sqrt(v') + eps). All arithmetic is float32; what does not depend on
g is computed once. Where no moments are given the gradient is taken as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from clusterucb.checkpoint.layers import Layer
from clusterucb.checkpoint.moments import Moments, check_moments
from clusterucb.config import Adam, Preconditioner


class Direction(Protocol):
    """Turns gradients of a parameter into directions; may overwrite its argument."""

    def __call__(self, name: str, gradient_BP: Tensor) -> Tensor:
        """Return [B, P] float32 for gradients [B, P] of the parameter, in rows."""
        ...


class PlainDirection:
    """The gradient itself."""

    def __call__(self, name: str, gradient_BP: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient_BP


@dataclass(frozen=True, slots=True, eq=False)
class _Constants:
    """b1 m and b2 v (plus eps, where that stands inside the root), in rows."""

    first_P: Tensor
    second_P: Tensor


class AdamDirection:
    """m' / sqrt(v' + eps) with the moments of the checkpoint."""

    def __init__(self, config: Adam, layers: Sequence[Layer], moments: Moments, device: torch.device) -> None:
        self._config = config
        inside = config.eps if config.eps_inside_root else 0.0
        self._constants = {
            layer.name: _Constants(
                _rows(layer, moments.exp_avg[layer.name], device).mul_(config.beta1),
                _rows(layer, moments.exp_avg_sq[layer.name], device).mul_(config.beta2).add_(inside),
            )
            for layer in layers
        }

    def __call__(self, name: str, gradient_BP: Tensor) -> Tensor:
        """Return the direction; the gradient's memory is used up."""
        config, constants = self._config, self._constants[name]
        first = torch.add(constants.first_P, gradient_BP, alpha=1 - config.beta1)
        second = torch.addcmul(constants.second_P, gradient_BP, gradient_BP, value=1 - config.beta2, out=gradient_BP)
        if config.eps_inside_root:
            return first.mul_(second.rsqrt_())
        return first.div_(second.sqrt_().add_(config.eps))


def direction(
    config: Preconditioner, layers: Sequence[Layer], moments: Moments | None, device: torch.device
) -> Direction:
    """Build the configured transform; raises ModelError where the moments do not fit the layers."""
    if config.kind == "adam" and moments is not None:
        check_moments(moments, {layer.name: layer.shape for layer in layers})
        return AdamDirection(config, layers, moments, device)
    return PlainDirection()


def _rows(layer: Layer, moment: Tensor, device: torch.device) -> Tensor:
    return layer.rows(moment.to(device, torch.float32)).clone()
