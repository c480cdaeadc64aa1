"""Which columns of the influence belong to which target, and what a sample is worth to each.

The bank has one row a subtask, whatever targets they belong to. Invariant: every column belongs to exactly one target,
and a target's reward is the maximum over its own columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clusterucb.config import RunConfig
from clusterucb.data.target_rows import target_of
from clusterucb.run.score_table import ScoreTable
from clusterucb.types import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class TargetColumns:
    """One target: its name (none where it is the only one), its weight, and its subtasks with their columns."""

    name: str
    weight: float
    subtasks: tuple[str, ...]
    columns: IntArray

    def of(self, table: ScoreTable) -> ScoreTable:
        """Return the table as this target alone sees it."""
        return replace(table, influence_BS=table.influence_BS[:, self.columns])

    def rewards_B(self, influence_BS: FloatArray) -> FloatArray:
        """Return the maximum over the target's subtasks."""
        if not len(influence_BS):  # where every sample failed, nothing is known of the columns
            return np.empty(0, np.float32)
        return influence_BS[:, self.columns].max(axis=1)


def target_columns(config: RunConfig, subtasks: Sequence[str]) -> tuple[TargetColumns, ...]:
    """Return the targets of a run, in their order."""
    if not config.targets:
        return (TargetColumns("", 1.0, tuple(subtasks), np.arange(len(subtasks))),)
    owners = np.asarray([target_of(subtask) for subtask in subtasks])
    found: list[TargetColumns] = []
    for target in config.targets:
        columns = np.flatnonzero(owners == target.name)
        found.append(TargetColumns(target.name, target.weight, tuple(subtasks[int(i)] for i in columns), columns))
    return tuple(found)
