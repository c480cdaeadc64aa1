"""From rewards to the chosen subset: what samples are ranked by, which the caps pass over, which differ enough.

Invariant: a selection is a function of what was scored and of the configuration alone, and samples with equal values
are told apart by id.
"""

from clusterucb.selection.caps import CapUse, Groups
from clusterucb.selection.subset import SelectedSubset, select

__all__ = ["CapUse", "Groups", "SelectedSubset", "select"]
