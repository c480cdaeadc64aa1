"""Micro-batches: which samples are computed together.

Invariant: the composition is a pure function of the samples, their lengths and the token budget, so that a worker
never decides what shares a batch, and every run of the same round computes the same numbers.
"""

import numpy as np

from clusterucb.types import IntArray


def micro_batches(samples_B: IntArray, lengths_N: IntArray, batch_tokens: int) -> list[IntArray]:
    """Group samples, longest first, so that padded size (count x longest) stays within `batch_tokens`.

    A sample longer than the budget gets a batch of its own. Longest first, so that the largest allocation comes
    first and the short batches even out the workers at the end.
    """
    lengths_B = lengths_N[samples_B]
    order = np.lexsort((samples_B, -lengths_B))
    batches: list[IntArray] = []
    start = 0
    while start < len(order):
        longest = max(int(lengths_B[order[start]]), 1)
        stop = start + max(1, batch_tokens // longest)
        batches.append(samples_B[order[start:stop]])
        start = stop
    return batches
