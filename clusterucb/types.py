"""The data that pass between the parts, all frozen.

Shape legend, used everywhere as a suffix: N pool samples, B samples of one micro-batch, T tokens, D sketch
dimensions, F feature dimensions, K clusters (arms), S subtasks of the target, E target examples.
A *sample* is named by its position in the tokenised pool (0..N-1); its public id lives with the pool.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
HalfArray = npt.NDArray[np.float16]

Reason = Literal["no_label_tokens", "too_long", "non_finite", "zero_gradient", "out_of_memory", "worker_lost"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A sample that is reported and excluded: never an observation, never selected."""

    sample: int
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """B samples laid end to end: sample i is `tokens_T[offsets[i]:offsets[i + 1]]`.

    `labels_T` is True on every token whose prediction carries loss; a sample's first token is never a label.
    """

    samples_B: IntArray
    tokens_T: npt.NDArray[np.int32]
    labels_T: npt.NDArray[np.bool_]
    offsets: IntArray

    def __len__(self) -> int:
        return len(self.samples_B)

    @property
    def lengths_B(self) -> IntArray:
        """Tokens of each sample."""
        return np.diff(self.offsets)

    def row(self, i: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Return tokens and labels of the i-th sample of the batch."""
        part = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return self.tokens_T[part], self.labels_T[part]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a worker answers for a micro-batch: one row a *scored* sample, in the batch's order; failures apart.

    `influence_BS` is the cosine with each subtask's mean unit target gradient, averaged over the subtask's examples.
    """

    samples_B: IntArray
    influence_BS: FloatArray
    squared_norm_B: FloatArray
    loss_B: FloatArray
    sketch_BD: HalfArray | None
    failures: tuple[Failure, ...]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Hidden:
    """Pooled hidden states (or embeddings) of a micro-batch, unit length, in the batch's order."""

    samples_B: IntArray
    features_BF: HalfArray
    failures: tuple[Failure, ...]
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """Draws decided together, in planned order: `samples_B[i]` from arm `arms_B[i]`. Round 0 is the cold start."""

    index: int
    samples_B: IntArray
    arms_B: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """Rewards of a round's draws, and the draws that failed."""

    samples_B: IntArray
    rewards_B: npt.NDArray[np.float64]
    """One a draw; B x M where there are M targets."""
    failed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Labels 0..K-1 of every pool sample (-1: not clustered, for samples excluded beforehand) and unit centroids."""

    labels_N: npt.NDArray[np.int32]
    centroids_KF: FloatArray


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker runs on and has used so far."""

    device: str
    notes: tuple[str, ...]
    peak_host_gib: float
    peak_device_gib: float
