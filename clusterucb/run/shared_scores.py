"""What several targets make of the scored samples: a selection each, whom a sample serves best, a joint score.

Invariant: every target's part is what a run for it alone would make of the same scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from clusterucb.joint import Scale, served
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.target_columns import TargetColumns
from clusterucb.selection import SelectedSubset
from clusterucb.types import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class SharedScores:
    """A table of B scored samples as several targets see it."""

    by_target: tuple[tuple[str, ScoreTable, SelectedSubset], ...]
    """Name, the table with the target's own columns, and its selection."""
    targets: tuple[str, ...]
    """Of each sample, the target it serves best,"""
    subtasks: tuple[str, ...]
    """that target's subtask with the largest influence"""
    influence_B: FloatArray
    """and its reward for that target."""

    @classmethod
    def of(
        cls, table: ScoreTable, targets: Sequence[TargetColumns], chosen: Sequence[SelectedSubset], scale: Scale
    ) -> "SharedScores":
        """Look at the table from every target's side; `scale` makes their rewards comparable."""
        own = [target.of(table) for target in targets]
        best_B = served(rewards_BM(table, targets), [target.weight for target in targets], scale)
        best = cast(list[int], best_B.tolist())
        subtask_BM = np.stack([each.subtask_B for each in own], axis=1)
        reward_BM = np.stack([each.reward_B for each in own], axis=1)
        return cls(
            by_target=tuple(
                (target.name, each, subset) for target, each, subset in zip(targets, own, chosen, strict=True)
            ),
            targets=tuple(targets[m].name for m in best),
            subtasks=tuple(targets[m].subtasks[int(subtask_BM[i, m])] for i, m in enumerate(best)),
            influence_B=np.take_along_axis(reward_BM, best_B[:, None], axis=1)[:, 0].astype(np.float32),
        )

    def provenance(self, position: int, score: float) -> dict[str, object]:
        """Return what a row of the joint selection says of itself besides."""
        return {
            "influence": float(self.influence_B[position]),
            "target": self.targets[position],
            "subtask": self.subtasks[position],
            "score": score,
            "influences": {name: float(own.reward_B[position]) for name, own, _ in self.by_target},
        }


def rewards_BM(table: ScoreTable, targets: Sequence[TargetColumns]) -> npt.NDArray[np.float64]:
    """Return what each sample is worth to each target."""
    return np.stack([target.of(table).reward_B for target in targets], axis=1)
