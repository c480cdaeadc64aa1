"""What the parts of a run's features are called: a part's stage, files and line in the ledger bear its name."""

from clusterucb.config import MOST_PARTS

FIRST = "features"
NAMES = (FIRST, *(f"{FIRST}-{number}" for number in range(2, MOST_PARTS + 1)))
"""In the order of the parts."""
