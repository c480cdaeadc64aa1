"""Passes of a gang: every rank gathers the same weights in the same order, whatever happens to it.

All passes of one kind gather the same units in the same order: the first one, which all ranks run, is remembered. A
rank that has nothing to compute, or whose memory ran out in the middle, takes part in what is left of that order,
so that the others come through and keep their results. Before each pass the ranks agree whether another one follows.

Not covered: memory that runs out inside the transport or in such a remainder, and a model that chooses its blocks by
their input. Both end the rank, and with it the gang.
"""

from collections.abc import Callable
from typing import TypeVar

from clusterucb.checkpoint.gathering import GatheredWeights, Unit
from clusterucb.errors import ResourceError
from clusterucb.gradients.memory_limit import attempt

Result = TypeVar("Result")


class Lockstep:
    """Passes of one kind. The first must be run by all ranks."""

    def __init__(self, weights: GatheredWeights) -> None:
        self._weights = weights
        self._order: list[Unit] | None = None

    def more(self, here: bool) -> bool:
        """Whether any rank has work."""
        return self._weights.any_rank(here)

    def run(self, compute: Callable[[], Result] | None) -> Result | None:
        """Run one pass together with the other ranks."""
        weights = self._weights
        weights.start(self._order or ())
        result = None
        if compute is not None:
            with weights.in_use():
                result = attempt(compute)
        gathered = weights.finish()
        if self._order is None:
            if result is None:
                raise ResourceError(
                    "a single short sample does not fit beside a rank's share of the model: raise workers.shards"
                )
            self._order = gathered
        assert gathered == self._order, "this pass gathered other weights than the first of its kind"
        return result
