"""One selection for several targets: a score of every sample that the same rules then select by.

Rewards of different targets have different scales, so each is standardised over the scored samples first. Invariant: a
joint score is a function of the rewards and the weights alone; equal samples keep their order in the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]
How = Literal["round_robin", "mean", "max"]


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """Mean and deviation of each target's rewards; a deviation of 1 where they do not differ."""

    mean_M: Real
    spread_M: Real

    @classmethod
    def of(cls, rewards_BM: Real) -> "Scale":
        """Return the scale of these samples."""
        spread_M, size_M = rewards_BM.std(axis=0), np.abs(rewards_BM).max(axis=0)
        return cls(rewards_BM.mean(axis=0), np.where(spread_M > 1e-12 * size_M, spread_M, 1.0))

    def standardised(self, rewards_BM: Real) -> Real:
        """Return rewards in deviations from the mean."""
        return (rewards_BM - self.mean_M) / self.spread_M


def joint_scores(rewards_BM: Real, weights: Sequence[float], how: How) -> Real:
    """Return one score a sample, higher for better: the weighted mean or maximum of standardised rewards, or 1 for the
    first and 1/B for the last sample taken in turns.
    """
    share_M = np.asarray(weights) / np.mean(weights)
    match how:
        case "mean":
            return Scale.of(rewards_BM).standardised(rewards_BM) @ share_M / len(share_M)
        case "max":
            return (Scale.of(rewards_BM).standardised(rewards_BM) * share_M).max(axis=1)
        case "round_robin":
            scores_B = np.empty(len(rewards_BM))
            scores_B[in_turns(rewards_BM, weights)] = 1.0 - np.arange(len(rewards_BM)) / len(rewards_BM)
            return scores_B


def in_turns(rewards_BM: Real, weights: Sequence[float]) -> IntArray:
    """Return all samples in the order in which the targets take them: whose turn it is takes its best one left.

    Turns come in proportion to the weights, evenly spread: the j-th turn of a target of weight w is due at
    (j - 1/2) / w, the earlier target first where two are due together.
    """
    ranked = [iter(np.argsort(-rewards_B, kind="stable").tolist()) for rewards_B in rewards_BM.T]
    due_M = 0.5 / np.asarray(weights, dtype=np.float64)
    taken_B = np.zeros(len(rewards_BM), dtype=np.bool_)
    order = np.empty(len(rewards_BM), dtype=np.int64)
    for place in range(len(order)):
        turn = int(np.argmin(due_M))
        due_M[turn] += 1.0 / weights[turn]
        order[place] = sample = next(sample for sample in ranked[turn] if not taken_B[sample])
        taken_B[sample] = True
    return order


def served(rewards_BM: Real, weights: Sequence[float], scale: Scale) -> IntArray:
    """Return the target that each sample serves best: the largest standardised reward times weight; the first of
    equals."""
    return (scale.standardised(rewards_BM) * np.asarray(weights)).argmax(axis=1)
