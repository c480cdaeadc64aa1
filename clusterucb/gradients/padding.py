"""A micro-batch as tensors: samples padded on the right, and which positions are supervised.

No attention mask is needed: in a causal model what stands to the right of a token cannot reach it, and padded
positions carry no loss, so that their gradients are exactly zero. Attention without a mask is also the fastest.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clusterucb.types import Failure, IntArray, TokenBatch

_PAD = 0  # any id of the vocabulary would do


@dataclass(frozen=True, slots=True, eq=False)
class PaddedBatch:
    """B samples of T tokens and the L positions whose next token carries loss, in the samples' order.

    `position_L` indexes the flattened [B * T]; `weight_L` is one over the label tokens of the position's sample.
    """

    ids_BT: Tensor
    position_L: Tensor
    target_L: Tensor
    weight_L: Tensor
    sample_L: IntArray
    """Row of the batch, on the host."""


def padded(batch: TokenBatch, device: torch.device) -> PaddedBatch:
    """Lay the samples out; every one must have a label token, and none on its first token."""
    lengths_B = batch.lengths_B
    samples, tokens = len(batch), int(lengths_B.max())
    inside_BT = np.arange(tokens) < lengths_B[:, None]
    ids_BT = np.full((samples, tokens), _PAD, dtype=np.int64)
    labels_BT = np.zeros((samples, tokens), dtype=np.bool_)
    ids_BT[inside_BT], labels_BT[inside_BT] = batch.tokens_T, batch.labels_T
    assert not labels_BT[:, 0].any(), "a sample's first token is never a label"
    sample_L, token_L = labels_BT.nonzero()
    labels_B = labels_BT.sum(1)
    assert labels_B.all(), "samples without label tokens are failures, not part of a batch"
    return PaddedBatch(
        ids_BT=torch.from_numpy(ids_BT).to(device),
        position_L=torch.from_numpy(sample_L * tokens + token_L - 1).to(device),
        target_L=torch.from_numpy(ids_BT[sample_L, token_L]).to(device),
        weight_L=torch.from_numpy((1.0 / labels_B)[sample_L].astype(np.float32)).to(device),
        sample_L=sample_L,
    )


def some(batch: TokenBatch, rows: IntArray) -> TokenBatch:
    """Return the batch's given rows, in the given order."""
    parts = [batch.row(int(i)) for i in rows]
    return TokenBatch(
        samples_B=batch.samples_B[rows],
        tokens_T=np.concatenate([tokens for tokens, _ in parts]) if parts else batch.tokens_T[:0],
        labels_T=np.concatenate([labels for _, labels in parts]) if parts else batch.labels_T[:0],
        offsets=np.concatenate([[0], np.cumsum(batch.lengths_B[rows])]).astype(np.int64),
    )


def labelled(batch: TokenBatch) -> tuple[TokenBatch, tuple[Failure, ...]]:
    """Split off samples without label tokens."""
    has_B = np.array([bool(batch.row(i)[1].any()) for i in range(len(batch))], dtype=np.bool_)
    if has_B.all():
        return batch, ()
    failures = tuple(Failure(int(sample), "no_label_tokens") for sample in batch.samples_B[~has_B])
    return some(batch, np.flatnonzero(has_B)), failures
