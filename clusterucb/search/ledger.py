"""The budget, in samples, in one integer: cold start included, failed draws refunded.

Invariant: observed + in flight + remaining == limit, and none of them is negative.
"""

from dataclasses import dataclass, replace


def buys(budget: float, num_usable: int) -> int:
    """Return how many of `num_usable` samples a share buys; a share that is whole but for rounding counts as whole."""
    return min(int(budget * num_usable + 1e-9), num_usable)


@dataclass(frozen=True, slots=True)
class Ledger:
    """How much of the budget is planned, observed, failed and left."""

    limit: int
    """Observations that the budget buys."""
    planned: int = 0
    """Draws planned so far, whatever became of them."""
    observed: int = 0
    """Draws that came back with a reward."""
    failed: int = 0
    """Draws that came back without one: refunded, so that the budget buys a replacement."""

    @property
    def in_flight(self) -> int:
        """Draws planned and not yet told."""
        return self.planned - self.observed - self.failed

    @property
    def remaining(self) -> int:
        """Draws that can still be planned."""
        return self.limit - self.planned + self.failed

    def plan(self, draws: int) -> "Ledger":
        """Reserve `draws`."""
        assert 0 < draws <= self.remaining, f"planned {draws} draws with {self.remaining} left"
        return replace(self, planned=self.planned + draws)

    def settle(self, observed: int, failed: int) -> "Ledger":
        """Book the results of a round."""
        assert 0 <= observed + failed <= self.in_flight, f"told {observed + failed} with {self.in_flight} in flight"
        return replace(self, observed=self.observed + observed, failed=self.failed + failed)
