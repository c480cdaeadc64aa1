"""The loss whose gradients are taken: each sample's mean cross-entropy over its own label tokens.

The batch's loss is the *sum* of its samples' means, so that a sample's gradient is what it would be alone in a batch.
Projecting onto the vocabulary is a quarter of a small model's work and most of its activation memory: it is done for
supervised positions only, in chunks whose gradient with respect to the hidden states (softmax minus one-hot, times
the output embedding) is formed at once, so that only one chunk of logits is ever alive. One backward pass from the
hidden states follows.

That this short cut computes the model's own logits is probed once; where it does not, or where the output embedding is
itself a hooked layer, the model's full logits are used instead, and `notes` says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clusterucb.checkpoint.layers import Layer
from clusterucb.errors import ModelError
from clusterucb.gradients.padding import PaddedBatch
from clusterucb.types import FloatArray

_PROBE_TOKENS = 4
_CPU_LOGITS = 6 * 2**20
"""Logits at a time on a CPU: 24 MiB stay in its last cache, and glibc keeps memory of up to 32 MiB instead of faulting
it in anew for every chunk."""
_FEWEST_POSITIONS = 64
"""At a time, however large the vocabulary: below, the product is bound by reading the embedding."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """Hidden states to logits: softcap(scale * (weight h + bias))."""

    linear: nn.Linear
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden_Ld: Tensor) -> Tensor:
        """Return [L, V] float32."""
        logits = functional.linear(hidden_Ld, self.linear.weight, self.linear.bias).float()
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def loss(self, hidden_Ld: Tensor, target_L: Tensor) -> tuple[Tensor, Tensor]:
        """Return each position's cross-entropy [L] and its gradient [L, d] with respect to the hidden state.

        The softmax is never divided by its sum: the product with the embedding, V / d times smaller, is.
        """
        logits_LV = self.logits(hidden_Ld)
        slope_LV = None if self.softcap is None else (logits_LV / self.softcap).square_().neg_().add_(1.0)
        target_L1 = target_L[:, None]
        logit_L1 = logits_LV.gather(1, target_L1)
        largest_L1 = logits_LV.amax(dim=1, keepdim=True)
        gradient_LV = logits_LV.sub_(largest_L1).exp_()
        total_L1 = gradient_LV.sum(dim=1, keepdim=True)
        gradient_LV.scatter_add_(1, target_L1, -total_L1)
        if slope_LV is not None:
            gradient_LV.mul_(slope_LV)
        gradient_Ld = (gradient_LV.to(self.linear.weight.dtype) @ self.linear.weight).mul_(self.scale / total_L1)
        return (total_L1.log_() + largest_L1 - logit_L1).squeeze(1), gradient_Ld


@dataclass(frozen=True, slots=True, eq=False)
class AtHead:
    """What the output embedding sees at the L supervised positions, and what it sends back.

    `gradient_Ld` is that of the batch's loss: each position counts one over the label tokens of its sample.
    """

    hidden_Ld: Tensor
    gradient_Ld: Tensor
    losses_L: Tensor


class SupervisedLoss:
    """Forward and backward pass of a batch; gradients reach whatever hooks the model carries."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer], chunk: int) -> None:
        self._model = model
        self._head = _find_head(model, layers)
        self._chunk = chunk if self._head is None else min(chunk, _affordable(self._head.linear))
        self.notes: tuple[str, ...] = ()
        if self._head is None:
            self.notes = (
                "losses: the output embedding cannot be applied apart from the model; full logits are formed",
            )

    def backward(self, batch: PaddedBatch) -> FloatArray:
        """Run both passes and return the loss of each of the B samples."""
        losses_L = self._through_model(batch) if self._head is None else self._through_head(batch, self._head)
        weighted_L = (losses_L * batch.weight_L).double().cpu().numpy()
        return np.bincount(batch.sample_L, weighted_L, minlength=len(batch.ids_BT)).astype(np.float32)

    def at_head(self, batch: PaddedBatch) -> AtHead:
        """Run the forward pass alone, as far as the gradient at the final hidden states.

        Raises ModelError where these cannot be told from the model.
        """
        if self._head is None:
            raise ModelError(
                "the gradient at the final hidden states cannot be formed, for the output embedding is not applied "
                "apart from the model, or gradients.modules names it: use features.kind hidden"
            )
        with torch.no_grad():
            return self._at_head(_hidden_states(self._model, self._head.linear, batch.ids_BT), batch, self._head)

    def _at_head(self, hidden_BTd: Tensor, batch: PaddedBatch, head: Head) -> AtHead:
        hidden_Ld = hidden_BTd.flatten(0, 1).index_select(0, batch.position_L)
        gradient_Ld = torch.empty_like(hidden_Ld)
        losses_L = torch.empty_like(batch.weight_L)
        for start in range(0, len(losses_L), self._chunk):
            part = slice(start, start + self._chunk)
            losses_L[part], gradient_Ld[part] = head.loss(hidden_Ld[part], batch.target_L[part])
        gradient_Ld.mul_(batch.weight_L[:, None])
        return AtHead(hidden_Ld, gradient_Ld, losses_L)

    def _through_head(self, batch: PaddedBatch, head: Head) -> Tensor:
        hidden_BTd = _hidden_states(self._model, head.linear, batch.ids_BT)
        with torch.no_grad():
            found = self._at_head(hidden_BTd, batch, head)
            gradient_BTd = torch.zeros_like(hidden_BTd)
            gradient_BTd.view(-1, gradient_BTd.shape[-1]).index_copy_(0, batch.position_L, found.gradient_Ld)
        torch.autograd.backward(hidden_BTd, gradient_BTd)
        return found.losses_L

    def _through_model(self, batch: PaddedBatch) -> Tensor:
        logits_BTV: Tensor = self._model(input_ids=batch.ids_BT, use_cache=False).logits
        logits_LV = logits_BTV.flatten(0, 1).index_select(0, batch.position_L).float()
        losses_L = functional.cross_entropy(logits_LV, batch.target_L, reduction="none")
        torch.autograd.backward((losses_L * batch.weight_L).sum())
        return losses_L.detach()


def _hidden_states(model: nn.Module, head: nn.Module, ids_BT: Tensor) -> Tensor:
    """Run the model up to its output embedding, which then sees one position only, and return what it was to see."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.append(inputs[0])
        return (inputs[0][:, :1], *inputs[1:])

    handle = head.register_forward_pre_hook(keep)
    try:
        model(input_ids=ids_BT, use_cache=False)
    finally:
        handle.remove()
    return seen[-1]


def _affordable(embedding: nn.Linear) -> int:
    if embedding.weight.device.type != "cpu":
        return 2**62
    return max(_FEWEST_POSITIONS, _CPU_LOGITS // embedding.out_features)


@torch.no_grad()
def _find_head(model: nn.Module, layers: Sequence[Layer]) -> Head | None:
    """Return the way from hidden states to logits that reproduces the model's own, if there is one."""
    get = getattr(model, "get_output_embeddings", None)
    linear = None if get is None else get()
    if type(linear) is not nn.Linear or any(module is linear for layer in layers for module in layer.modules):
        return None
    seen: list[Tensor] = []
    handle = linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        ids_1T = torch.arange(1, 1 + _PROBE_TOKENS, device=linear.weight.device)[None]
        expected_TV: Tensor = model(input_ids=ids_1T, use_cache=False).logits[0].float()
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0].shape[:2] != ids_1T.shape:
        return None
    tolerance = 1e-4 if linear.weight.dtype == torch.float32 else 3e-2
    largest = float(expected_TV.abs().max())
    for head in _candidates(model, linear):
        if torch.allclose(head.logits(seen[0][0]), expected_TV, rtol=tolerance, atol=tolerance * largest):
            return head
    return None


def _candidates(model: nn.Module, linear: nn.Linear) -> list[Head]:
    """List what known architectures do to their logits, the names being those of their configurations."""
    config = getattr(model, "config", None)
    softcap = getattr(config, "final_logit_softcapping", None)
    scales = [1.0]
    for name, inverse in (("logit_scale", False), ("lm_head_multiplier", False), ("logits_scaling", True)):
        value = getattr(config, name, None)
        if value:
            scales.append(1.0 / value if inverse else float(value))
    softcaps = [None] if softcap is None else [float(softcap), None]
    return [Head(linear, scale, cap) for cap in softcaps for scale in scales]
