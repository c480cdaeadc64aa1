"""Loss gradient at the final hidden state x final hidden state: gradients of the output side, forward only.

With h the final hidden state as the output embedding sees it, and dL/dh the loss's gradient there, the feature of a
sample is the sketch of sum over its label tokens of (dL/dh) h^T, at unit length: the gradient of a linear map, at the
identity, between the model and its output embedding. No backward pass through the model is needed, only the output
embedding's own. Features do not depend on what shares the batch, nor on the process: the sketch is counter-based.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import time

import numpy as np
import torch
from torch import Tensor

from clusterucb.config import HashSketch, OutputGradientFeatures
from clusterucb.features.pooling import unit_rows
from clusterucb.gradients.losses import SupervisedLoss
from clusterucb.gradients.memory_limit import MemoryLimit, Passes
from clusterucb.gradients.padding import labelled, padded
from clusterucb.gradients.sketch import SignedHash
from clusterucb.types import Hidden, TokenBatch

MAP = "output_map"
"""Name of the map whose gradient is sketched: with the seed it settles the sketch."""
ELEMENTS_AT_ONCE = 2**22
"""Of the d x d gradients that are held at a time."""


class OutputGradientFeaturiser:
    """Turns token batches into features of unit length; raises ModelError where the model's output is not linear."""

    def __init__(
        self, loss: SupervisedLoss, config: OutputGradientFeatures, device: torch.device, passes: Passes | None = None
    ) -> None:
        self._loss = loss
        self._device = device
        self._sketcher = SignedHash(HashSketch(dim=config.dim, seed=config.seed), device)
        self._memory = MemoryLimit(passes)

    @torch.inference_mode()
    def features(self, batch: TokenBatch) -> Hidden:
        """Return the features of the samples that have any; the others are reported."""
        started = time.perf_counter()
        usable, unlabelled = labelled(batch)
        pieces, too_large = self._memory.run(usable, lambda piece: (piece.samples_B, self._sketched(piece)))
        sketch_BD = torch.cat([sketch for _, sketch in pieces]) if pieces else torch.empty(0, self._sketcher.dim)
        samples_B = np.concatenate([samples for samples, _ in pieces]) if pieces else usable.samples_B[:0]
        samples_B, features_BF, unusable = unit_rows(samples_B, sketch_BD)
        return Hidden(samples_B, features_BF, unlabelled + too_large + unusable, time.perf_counter() - started)

    def _sketched(self, batch: TokenBatch) -> Tensor:
        tensors = padded(batch, self._device)
        found = self._loss.at_head(tensors)
        counts = np.bincount(tensors.sample_L, minlength=len(batch)).tolist()
        gradients, states = (rows_Ld.float().split(counts) for rows_Ld in (found.gradient_Ld, found.hidden_Ld))
        width = found.hidden_Ld.shape[1]
        sketch_BD = torch.zeros(len(batch), self._sketcher.dim, device=self._device)
        step = max(1, ELEMENTS_AT_ONCE // width**2)
        for start in range(0, len(batch), step):
            part = slice(start, start + step)
            outer_BP = torch.stack([g_ld.T @ h_ld for g_ld, h_ld in zip(gradients[part], states[part], strict=True)])
            self._sketcher.fold(MAP, outer_BP.flatten(1), sketch_BD[part])
        return sketch_BD
