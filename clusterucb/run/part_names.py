"""What the parts of a run's features are called: a part's stage, files and line in the ledger bear its name, and those
of the target's own features, where they are matched, a name made of it."""

from clusterucb.config import MOST_PARTS

FIRST = "features"
NAMES = (FIRST, *(f"{FIRST}-{number}" for number in range(2, MOST_PARTS + 1)))
"""In the order of the parts."""


def of_target(name: str) -> str:
    """Return what the target's features of a part are called."""
    return f"{name}-target"


STAGES = (*NAMES, *map(of_target, NAMES))
"""What there may be a stage of, in this order: each part of the pool, then of the target."""
