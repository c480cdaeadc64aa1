"""When the device runs out of memory, halve the micro-batch and go on, down to one sample.

A limit that was learned holds for later batches too, so that a run pays for it once. Pieces keep the batch's order, and
a sample's numbers do not depend on what else is in its piece.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
import torch

from clusterucb.gradients.padding import some
from clusterucb.types import Failure, TokenBatch

Result = TypeVar("Result")


class Passes(Protocol):
    """How passes through the model are run: by this process alone, or in step with the ranks that share the model."""

    def more(self, here: bool) -> bool:
        """Whether another pass follows; `here` says whether this process still has work."""
        ...

    def run(self, compute: Callable[[], Result] | None) -> Result | None:
        """Run one pass, or only take part in it; None where memory ran out or there was nothing to compute."""
        ...


class Alone:
    """Passes of a process that holds the whole model."""

    def more(self, here: bool) -> bool:
        """Whether this process has work."""
        return here

    def run(self, compute: Callable[[], Result] | None) -> Result | None:
        """Run one pass."""
        assert compute is not None
        return attempt(compute)


class MemoryLimit:
    """Runs a computation over a batch in as few pieces as memory allows."""

    def __init__(self, passes: Passes | None = None) -> None:
        self._passes = passes or Alone()
        self.padded_tokens: int | None = None
        """Largest padded size of a piece of several samples; none while nothing has failed."""

    def run(
        self, batch: TokenBatch, compute: Callable[[TokenBatch], Result]
    ) -> tuple[list[Result], tuple[Failure, ...]]:
        """Return the results of the pieces, and a failure for every sample too large even alone."""
        results: list[Result] = []
        failures: list[Failure] = []
        waiting = self._cut([batch] if len(batch) else [])
        while self._passes.more(bool(waiting)):
            if not waiting:
                self._passes.run(None)
                continue
            piece = waiting.pop(0)
            result = self._passes.run(lambda piece=piece: compute(piece))
            if result is not None:
                results.append(result)
            elif len(piece) > 1:
                self.padded_tokens = max(1, _size(piece) // 2)
                waiting = self._cut([*_halves(piece), *waiting])
            else:
                detail = f"{_size(piece)} tokens do not fit in the device's memory"
                failures.append(Failure(int(piece.samples_B[0]), "out_of_memory", detail))
        return results, tuple(failures)

    def _cut(self, pieces: list[TokenBatch]) -> list[TokenBatch]:
        """Halve what is known to be too large, in order."""
        fitting: list[TokenBatch] = []
        while pieces:
            piece = pieces.pop(0)
            if len(piece) > 1 and self.padded_tokens is not None and _size(piece) > self.padded_tokens:
                pieces[:0] = _halves(piece)
            else:
                fitting.append(piece)
        return fitting


def attempt(compute: Callable[[], Result]) -> Result | None:
    """Compute, or return None where the device's memory ran out; what the attempt held is then free."""
    try:
        return compute()
    except torch.OutOfMemoryError:
        pass  # the traceback, and with it what the failed attempt holds, is gone before memory is given back
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _size(piece: TokenBatch) -> int:
    return len(piece) * int(piece.lengths_B.max())


def _halves(piece: TokenBatch) -> list[TokenBatch]:
    rows = np.arange(len(piece))
    return [some(piece, rows[: len(rows) // 2]), some(piece, rows[len(rows) // 2 :])]
