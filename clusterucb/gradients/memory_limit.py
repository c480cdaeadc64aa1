"""When the device runs out of memory, halve the micro-batch and go on, down to one sample.

A limit that was learned holds for later batches too, so that a run pays for it once. Pieces keep the batch's order, and
a sample's numbers do not depend on what else is in its piece.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from clusterucb.gradients.padding import some
from clusterucb.types import Failure, TokenBatch

Result = TypeVar("Result")


class MemoryLimit:
    """Runs a computation over a batch in as few pieces as memory allows."""

    def __init__(self) -> None:
        self.padded_tokens: int | None = None
        """Largest padded size of a piece of several samples; none while nothing has failed."""

    def run(
        self, batch: TokenBatch, compute: Callable[[TokenBatch], Result]
    ) -> tuple[list[Result], tuple[Failure, ...]]:
        """Return the results of the pieces, and a failure for every sample too large even alone."""
        results: list[Result] = []
        failures: list[Failure] = []
        waiting = [batch] if len(batch) else []
        while waiting:
            piece = waiting.pop(0)
            size = len(piece) * int(piece.lengths_B.max())
            if len(piece) > 1 and self.padded_tokens is not None and size > self.padded_tokens:
                waiting[:0] = _halves(piece)
                continue
            result = _attempt(compute, piece)
            if result is not None:
                results.append(result)
            elif len(piece) > 1:
                self.padded_tokens = max(1, size // 2)
                waiting[:0] = _halves(piece)
            else:
                detail = f"{size} tokens do not fit in the device's memory"
                failures.append(Failure(int(piece.samples_B[0]), "out_of_memory", detail))
        return results, tuple(failures)


def _attempt(compute: Callable[[TokenBatch], Result], piece: TokenBatch) -> Result | None:
    try:
        return compute(piece)
    except torch.OutOfMemoryError:
        pass  # the traceback, and with it what the failed attempt holds, is gone before memory is given back
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _halves(piece: TokenBatch) -> list[TokenBatch]:
    rows = np.arange(len(piece))
    return [some(piece, rows[: len(rows) // 2]), some(piece, rows[len(rows) // 2 :])]
