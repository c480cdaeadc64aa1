"""From token states to one unit feature vector a sample, shared by hidden states and sentence embeddings.

Padding never enters, whatever it holds. A sample without a direction (all zero or not finite) is a failure, not a row.
"""

import numpy as np
import torch
from torch import Tensor

from clusterucb.types import Failure, HalfArray, IntArray, Reason


def pool(states_BTF: Tensor, real_BT: Tensor, weighted: bool) -> Tensor:
    """Average the real tokens of each sample in float32: equal weights, or `weighted` 1..T by place.

    >>> pool(torch.tensor([[[1.0], [4.0], [9.0]]]), torch.tensor([[True, True, False]]), weighted=True)
    tensor([[3.]])
    """
    places_BT = real_BT.cumsum(1) if weighted else real_BT
    weights_BT = (places_BT * real_BT).float()
    weights_BT = weights_BT / weights_BT.sum(1, keepdim=True)
    # Zero times a non-finite padding state would be NaN, so those states are replaced, not only weighted out.
    return torch.einsum("bt,btf->bf", weights_BT, states_BTF.float().masked_fill(~real_BT[..., None], 0.0))


def unit_rows(samples_B: IntArray, pooled_BF: Tensor) -> tuple[IntArray, HalfArray, tuple[Failure, ...]]:
    """Return the samples that have a direction, their unit vectors, and the others as failures."""
    norm_B = pooled_BF.double().square().sum(1).sqrt()
    good_B = torch.isfinite(norm_B) & (norm_B > 0)
    unit_BF = pooled_BF[good_B].double() / norm_B[good_B][:, None]
    kept_B, norms_B = good_B.cpu().numpy(), norm_B.cpu().numpy()
    failures: list[Failure] = []
    for i in np.flatnonzero(~kept_B):
        reason: Reason = "zero_gradient" if norms_B[i] == 0 else "non_finite"
        failures.append(Failure(int(samples_B[i]), reason, "its pooled features"))
    return samples_B[kept_B], unit_BF.to(torch.float16).cpu().numpy(), tuple(failures)
