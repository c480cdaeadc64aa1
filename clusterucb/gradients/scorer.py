"""Consumers of per-sample gradients: one that scores them as they pass, one that keeps them.

`StreamingScorer` needs, beyond the layer in hand, only B x (S + 1 + D) numbers. Products and squared norms are summed
in float32 within a parameter and in float64 across parameters: hundreds of partial sums whose sizes differ by orders
of magnitude then add no error of their own, at the price of a few hundred bytes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clusterucb.checkpoint.layers import Layer
from clusterucb.gradients.preconditioner import Direction
from clusterucb.gradients.sketch import Sketcher


class StreamingScorer:
    """Turns gradients into directions, and these into products with the target, squared norms and sketches.

    `targets` maps a parameter to the S target means [S, P], in rows; it is empty where sketches are compared instead.
    """

    def __init__(
        self,
        direction: Direction,
        targets: Mapping[str, Tensor],
        sketcher: Sketcher | None,
        shape_BS: tuple[int, int],
        device: torch.device,
    ) -> None:
        self._direction = direction
        self._targets = targets
        self._sketcher = sketcher
        self.products_BS = torch.zeros(shape_BS, dtype=torch.float64, device=device)
        self.squared_norm_B = torch.zeros(shape_BS[0], dtype=torch.float64, device=device)
        self.sketch_BD = None if sketcher is None else torch.zeros(shape_BS[0], sketcher.dim, device=device)

    def __call__(self, layer: Layer, samples: slice, gradient_BP: Tensor) -> None:
        """Take in one layer's gradients of some samples."""
        direction_BP = self._direction(layer.name, gradient_BP)
        self.squared_norm_B[samples] += torch.linalg.vector_norm(direction_BP, dim=1).double().square_()
        target_SP = self._targets.get(layer.name)
        if target_SP is not None:
            self.products_BS[samples] += direction_BP @ target_SP.T
        if self._sketcher is not None and self.sketch_BD is not None:
            self._sketcher.fold(layer.name, direction_BP, self.sketch_BD[samples])


class Keeper:
    """Keeps every layer's directions, [B, P] in rows: for targets, tests and small uses."""

    def __init__(self, layers: Sequence[Layer], direction: Direction, samples: int, device: torch.device) -> None:
        self._direction = direction
        self.rows: dict[str, Tensor] = {layer.name: torch.empty(samples, layer.size, device=device) for layer in layers}

    def __call__(self, layer: Layer, samples: slice, gradient_BP: Tensor) -> None:
        """Take in one layer's gradients of some samples."""
        self.rows[layer.name][samples] = self._direction(layer.name, gradient_BP)

    def squared_norm_B(self) -> Tensor:
        """Return the squared norm of each sample's whole gradient, float64."""
        return torch.stack(
            [torch.linalg.vector_norm(rows_BP, dim=1).double().square_() for rows_BP in self.rows.values()]
        ).sum(0)
