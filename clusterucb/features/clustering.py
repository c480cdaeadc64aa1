"""Spherical k-means over features that may be larger than memory.

Invariants: every usable sample gets a label and every cluster a member, duplicates included; a label names the centroid
of largest cosine (the first of equal ones, unless an empty cluster had to be filled; in centred coordinates where
`center` is set); features are read in blocks, so that in float32 there are only one block and the start's sample. With
one thread the same generator state gives the same bytes.

Lloyd's iterations see at most `train_sample` points a cluster; where the pool holds more, the centroids are then
updated once from the whole pool. Two passes over everything remain (three with `center`), however many iterations.
"""

# torch is typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from clusterucb import config
from clusterucb.errors import ConfigError, DataError
from clusterucb.types import Clusters, FloatArray, IntArray

Features = npt.NDArray[Any]
"""N x F numbers of any float type, an array or a memory map."""

BLOCK_BYTES = 8 * 2**20
"""Float32 bytes of one block and of its cosines: small enough for the cache, and for malloc to reuse."""
START_POINTS = 8
"""Points a cluster that the start looks at, where that is more than 4,096 in all."""
REPAIRS = 32
"""Rounds in which empty clusters are filled and their neighbours may follow, before they are only filled."""
FOLLOW_MARGIN = 1e-6
"""How much nearer a refilled centroid must be before a sample follows it: above the rounding of a cosine."""


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step, for progress: mean cosine of the points to their centroids, over all iterations so far."""

    stage: Literal["start", "iterate", "assign"]
    iteration: int
    mean_cosine: float


def resolve_k(settings: config.Clusters, num_usable: int, budget: float) -> int:
    """Return the number of clusters for `num_usable` samples, `budget` being the share that may be scored."""
    if num_usable < 1:
        raise DataError("no sample of the pool has features: there is nothing to cluster; see the reported failures")
    if settings.k == "auto":
        return min(num_usable, max(2, int(min(math.sqrt(num_usable), budget * num_usable / 5))))
    if settings.k > num_usable:
        raise ConfigError(f"clusters.k is {settings.k} but only {num_usable} samples are usable: lower it, or use auto")
    return settings.k


def fit(
    features_NF: Features,
    k: int,
    settings: config.Clusters,
    rng: np.random.Generator,
    usable_N: npt.NDArray[np.bool_] | None = None,
    progress: Callable[[Step], None] | None = None,
) -> Clusters:
    """Cluster the usable rows into `k` groups of similar direction; rows need not have unit length."""
    num_samples = len(features_NF)
    rows = np.arange(num_samples) if usable_N is None else np.flatnonzero(usable_N)
    if not 1 <= k <= len(rows):
        raise ConfigError(
            f"clusters.k is {k} but {len(rows)} of {num_samples} samples are usable: give 1 to {len(rows)}"
        )
    report = progress or _silent

    everything = _Points(features_NF, rows, k)
    if settings.center:
        everything.center()
    train = everything.sample(settings.train_sample * k, rng)
    start_size = max(k, min(settings.init_sample, max(4096, START_POINTS * k)))
    centroids_KF = _spread_start(train.sample(start_size, rng), k, rng)
    report(Step("start", 0, math.nan))

    centroids_KF, iteration = _iterate(train, centroids_KF, settings, report)
    if len(train) < len(everything):
        labels_n, cosines_n, sums_KF = _assign(everything, centroids_KF, with_sums=True)
        centroids_KF = _means(everything, labels_n, cosines_n, sums_KF, centroids_KF)
    labels_n, cosines_n, _ = _assign(everything, centroids_KF)
    _fill_empty(everything, labels_n, cosines_n, centroids_KF)
    report(Step("assign", iteration, float(cosines_n.mean(dtype=np.float64))))

    labels_N = np.full(num_samples, -1, dtype=np.int32)
    labels_N[rows] = labels_n
    return Clusters(labels_N=labels_N, centroids_KF=centroids_KF.numpy())


def _silent(step: Step) -> None:
    del step


class _Points:
    """Rows of the features, read as blocks of unit float32 vectors; a row of zeros stays one.

    Once centred, a row is the unit vector of its direction less the mean direction of all: what the rows share (the
    momentum in Adam directions, the outlier channels of hidden states) tells none of them apart.
    """

    def __init__(self, features_NF: Features, rows: IntArray, k: int, mean_F: torch.Tensor | None = None) -> None:
        self.features_NF = features_NF
        self.rows = rows
        self.k = k
        self.mean_F = mean_F
        self.block = max(256, BLOCK_BYTES // (4 * (features_NF.shape[1] + k)))

    def __len__(self) -> int:
        return len(self.rows)

    def center(self) -> None:
        """Find the mean direction, to be taken off every row."""
        total_F = torch.zeros(self.features_NF.shape[1], dtype=torch.float64)
        for _, x_BF in self.blocks():
            total_F += x_BF.sum(dim=0, dtype=torch.float64)
        self.mean_F = (total_F / len(self)).float()

    def unit(self, part: slice | IntArray) -> torch.Tensor:
        """Return the chosen points as a B x F tensor of unit rows."""
        rows = self.rows[part]
        contiguous = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows) and isinstance(part, slice)
        raw = self.features_NF[rows[0] : rows[-1] + 1] if contiguous else self.features_NF[rows]
        x_BF = torch.from_numpy(np.array(raw)).float()
        norms_B = torch.linalg.vector_norm(x_BF, dim=1, keepdim=True)
        if not bool(torch.isfinite(norms_B).all()):
            bad = int(rows[int(torch.argmin(torch.isfinite(norms_B[:, 0]).int()))])
            raise DataError(
                f"the features of sample {bad} are not finite: mend them, or leave the sample out of the pool"
            )
        x_BF.div_(norms_B.clamp(min=torch.finfo(torch.float32).tiny))
        if self.mean_F is not None:
            x_BF.sub_(self.mean_F).mul_(norms_B > 0)
            norms_B = torch.linalg.vector_norm(x_BF, dim=1, keepdim=True)
            x_BF.div_(norms_B.clamp(min=FOLLOW_MARGIN)).mul_(norms_B > FOLLOW_MARGIN)  # what is left may be rounding
        return x_BF

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield the points in order."""
        for start in range(0, len(self), self.block):
            part = slice(start, min(start + self.block, len(self)))
            yield part, self.unit(part)

    def sample(self, size: int, rng: np.random.Generator) -> "_Points":
        """Return at most `size` of the points, uniformly drawn, in order and copied to memory."""
        if size >= len(self):
            return self
        rows = self.rows[np.sort(rng.choice(len(self), size, replace=False))]
        return _Points(np.asarray(self.features_NF[rows]), np.arange(size), self.k, self.mean_F)


def _spread_start(points: _Points, k: int, rng: np.random.Generator) -> torch.Tensor:
    """Choose `k` distinct points as centroids by greedy k-means++.

    Candidates are drawn in proportion to 1 - best cosine; of a few (2 + ln k, as in scikit-learn) the one that leaves
    the least distance is taken. Looking at several reads the points no more often than looking at one.
    """
    x_nF = torch.cat([x_BF for _, x_BF in points.blocks()])
    directed_n = torch.linalg.vector_norm(x_nF, dim=1) > 0  # a row of zeros is chosen last
    best_n = torch.full((len(points), 1), -1.0)
    taken_n = np.zeros(len(points), dtype=bool)
    trials = 2 + int(math.log(k))
    chosen: list[int] = []
    for _ in range(k):
        left_n = 1 - best_n[:, 0]
        left_n[~directed_n | (left_n < FOLLOW_MARGIN)] = 0.0  # within rounding of zero lie duplicates
        cumulative_n = np.cumsum(left_n.double().numpy())
        if cumulative_n[-1] > 0:
            drawn = np.searchsorted(cumulative_n, rng.random(trials) * cumulative_n[-1], side="right")
            drawn = np.minimum(drawn, int(torch.nonzero(left_n)[-1]))
        else:  # fewer directions than clusters
            drawn = np.array([np.argmin(taken_n)])
        best_nL = torch.maximum(x_nF @ x_nF[drawn].T, best_n)
        winner = int(torch.argmax(best_nL.sum(dim=0, dtype=torch.float64)))
        best_n = best_nL[:, winner : winner + 1]
        taken_n[drawn[winner]] = True
        chosen.append(int(drawn[winner]))
    return _directed(x_nF[chosen])


def _iterate(
    points: _Points, centroids_KF: torch.Tensor, settings: config.Clusters, report: Callable[[Step], None]
) -> tuple[torch.Tensor, int]:
    """Alternate assignment and update until the mean cosine stands still."""
    last = -math.inf
    for iteration in range(1, settings.iterations + 1):
        labels_n, cosines_n, sums_KF = _assign(points, centroids_KF, with_sums=True)
        mean = float(cosines_n.mean(dtype=np.float64))
        report(Step("iterate", iteration, mean))
        complete = len(np.unique(labels_n)) == len(centroids_KF)
        centroids_KF = _means(points, labels_n, cosines_n, sums_KF, centroids_KF)
        if complete and mean - last <= settings.tolerance * abs(mean):
            return centroids_KF, iteration
        last = mean
    return centroids_KF, settings.iterations


def _assign(
    points: _Points, centroids_KF: torch.Tensor, with_sums: bool = False
) -> tuple[npt.NDArray[np.int32], FloatArray, torch.Tensor]:
    """Return each point's nearest centroid, its cosine and, on request, the float64 sum of every cluster's points."""
    labels_n = np.empty(len(points), dtype=np.int32)
    cosines_n = np.empty(len(points), dtype=np.float32)
    sums_KF = torch.zeros(centroids_KF.shape if with_sums else (0, 0), dtype=torch.float64)
    for part, x_BF in points.blocks():
        labels_n[part], cosines_n[part] = _nearest(x_BF, centroids_KF)
        if with_sums:
            sums_KF.index_add_(0, torch.from_numpy(labels_n[part]), x_BF.double())
    return labels_n, cosines_n, sums_KF


def _nearest(x_BF: torch.Tensor, centroids_KF: torch.Tensor) -> tuple[IntArray, FloatArray]:
    """Return each row's centroid of largest cosine, the first of equal ones, and that cosine."""
    cosines_BK = (x_BF @ centroids_KF.T).numpy()
    index_B = cosines_BK.argmax(axis=1)  # numpy's is ten times faster than torch's here
    return index_B, cosines_BK[np.arange(len(index_B)), index_B]


def _means(
    points: _Points,
    labels_n: npt.NDArray[np.int32],
    cosines_n: FloatArray,
    sums_KF: torch.Tensor,
    centroids_KF: torch.Tensor,
) -> torch.Tensor:
    """Return the clusters' mean directions; an empty cluster restarts at a farthest point."""
    norms_K = torch.linalg.vector_norm(sums_KF, dim=1, keepdim=True)
    means_KF = torch.where(norms_K > FOLLOW_MARGIN, sums_KF / norms_K, centroids_KF.double()).float()
    sizes_K = np.bincount(labels_n, minlength=len(means_KF))
    empty = np.flatnonzero(sizes_K == 0)
    if len(empty):
        means_KF[empty] = _directed(points.unit(_farthest(cosines_n, labels_n, sizes_K, len(empty))))
    return means_KF


def _fill_empty(
    points: _Points, labels_n: npt.NDArray[np.int32], cosines_n: FloatArray, centroids_KF: torch.Tensor
) -> None:
    """Give every empty cluster a farthest point as centroid and member, and let nearer points follow; in place."""
    for repair in range(REPAIRS + 1):
        sizes_K = np.bincount(labels_n, minlength=len(centroids_KF))
        empty = np.flatnonzero(sizes_K == 0)
        if len(empty) == 0:
            return
        founders = _farthest(cosines_n, labels_n, sizes_K, len(empty))
        fresh_EF = _directed(points.unit(founders))
        centroids_KF[empty] = fresh_EF
        if repair < REPAIRS:  # points that follow may leave another cluster empty, hence the rounds
            for part, x_BF in points.blocks():
                index_B, best_B = _nearest(x_BF, fresh_EF)
                follows_B = best_B > cosines_n[part] + FOLLOW_MARGIN
                labels_n[part][follows_B] = empty[index_B[follows_B]]
                cosines_n[part][follows_B] = best_B[follows_B]
        labels_n[founders] = empty
        cosines_n[founders] = (points.unit(founders) * fresh_EF).sum(dim=1).numpy()


def _farthest(
    cosines_n: FloatArray, labels_n: npt.NDArray[np.int32], sizes_K: npt.NDArray[np.int64], count: int
) -> IntArray:
    """Return the points of lowest cosine, the first of equal ones, without emptying a cluster."""
    left_K = sizes_K.copy()
    chosen: list[int] = []
    for point in np.argsort(cosines_n, kind="stable"):
        if len(chosen) == count:
            break
        if left_K[labels_n[point]] > 1:
            left_K[labels_n[point]] -= 1
            chosen.append(int(point))
    return np.array(chosen, dtype=np.int64)


def _directed(x_BF: torch.Tensor) -> torch.Tensor:
    """Return the rows with the first axis in place of rows of zeros, so that centroids have unit length."""
    x_BF = x_BF.clone()
    x_BF[torch.linalg.vector_norm(x_BF, dim=1) == 0, 0] = 1.0
    return x_BF
