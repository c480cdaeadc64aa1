"""A pass as tensors: samples padded on the right, or packed end to end in one row; and its loss.

The loss of an optimizer step is the mean cross-entropy over the label tokens of *all* its samples, as transformers and
TRL have it since they count tokens over accumulation and ranks: a pass adds its sum over the step's label tokens.
Packed samples are told apart by positions that begin anew at zero, by which transformers' attention masks keep each to
itself.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clusterucb.errors import ModelError
from clusterucb.gradients.padding import padded
from clusterucb.types import TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """[R, T] token ids, the L flat positions whose next token is a label, and these labels."""

    ids_RT: Tensor
    positions_RT: Tensor | None
    """Where each token stands in its own sample; none where that is its column."""
    position_L: Tensor
    target_L: Tensor


def pass_of(batch: TokenBatch, packing: bool, device: torch.device) -> Pass:
    """Lay a micro-batch out."""
    if not packing:
        rows = padded(batch, device)
        return Pass(rows.ids_BT, None, rows.position_L, rows.target_L)
    ids_T = torch.from_numpy(batch.tokens_T.astype(np.int64)).to(device)
    within_T = np.arange(len(batch.tokens_T)) - np.repeat(batch.offsets[:-1], batch.lengths_B)
    label_L = np.flatnonzero(batch.labels_T)  # never a sample's first token, so the one before is its own
    position_L = torch.from_numpy(label_L - 1).to(device)
    target_L = ids_T[torch.from_numpy(label_L).to(device)]
    return Pass(ids_T[None], torch.from_numpy(within_T)[None].to(device), position_L, target_L)


def supervised_logits(model: nn.Module, head: nn.Module | None, batch: Pass) -> Tensor:
    """Return the logits [L, V] at the pass's supervised positions, float32.

    `head` is the output embedding inside `model`: it is given these positions alone, which are all that is projected
    onto the vocabulary. Without it the logits of all positions are formed.
    """

    def supervised(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, batch.position_L)[None], *inputs[1:])

    handle = None if head is None else head.register_forward_pre_hook(supervised)
    try:
        extra = {} if batch.positions_RT is None else {"position_ids": batch.positions_RT}
        logits: Tensor = model(input_ids=batch.ids_RT, use_cache=False, **extra).logits.flatten(0, 1)
    finally:
        if handle is not None:
            handle.remove()
    if head is None:
        logits = logits.index_select(0, batch.position_L)
    return logits.float()


def summed_loss(model: nn.Module, head: nn.Module | None, batch: Pass) -> Tensor:
    """Return the sum of the cross-entropy over the pass's labels, float32; for `head` see `supervised_logits`."""
    return functional.cross_entropy(supervised_logits(model, head, batch), batch.target_L, reduction="sum")


def output_embedding(model: nn.Module) -> nn.Module | None:
    """Return the layer that makes logits, where the model names it."""
    get = getattr(model, "get_output_embeddings", None)
    return None if get is None else get()


@torch.no_grad()
def check_packing(model: nn.Module, head: nn.Module | None, device: torch.device) -> None:
    """Raise ModelError where packed samples see each other in this model, or see other positions than alone."""
    samples = ((3, 5, 7, 9), (4, 6, 8))
    tokens = np.asarray([token for sample in samples for token in sample], np.int32)
    labels = np.asarray([i > 0 for sample in samples for i in range(len(sample))], np.bool_)
    both = TokenBatch(np.arange(2), tokens, labels, np.asarray([0, 4, 7]))
    apart, together = (float(summed_loss(model, head, pass_of(both, packing, device))) for packing in (False, True))
    if abs(apart - together) > 1e-2 * abs(apart):
        raise ModelError(
            f"this model does not keep packed samples apart (loss {together:.4f} packed, {apart:.4f} padded): "
            f"set training.packing to false"
        )
