"""The chosen subset: the best within the caps, equal ones by id, so that the same scores give the same selection."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb.config import Selection
from clusterucb.errors import ConfigError
from clusterucb.selection.caps import Admission, CapUse, Groups
from clusterucb.selection.diversity import Sketches, diverse_order, shortlisted
from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SelectedSubset:
    """Selected samples, best first; those of a diverse selection in the order in which they were chosen."""

    samples_B: IntArray
    rewards_B: Real
    """What they were ranked by."""
    caps: tuple[CapUse, ...] = ()
    asked: int | None = None
    """How many were asked for, where caps leave fewer."""

    def __len__(self) -> int:
        return len(self.samples_B)

    @property
    def threshold(self) -> float:
        """The smallest reward selected."""
        return float(self.rewards_B.min())


def select(
    samples_B: IntArray,
    rewards_B: Real,
    ids: Sequence[str],
    groups: Sequence[Groups],
    config: Selection,
    num_pool: int,
    sketches: Sketches | None = None,
) -> SelectedSubset:
    """Select from B scored samples (`ids[i]` belongs to `samples_B[i]`) for a pool of `num_pool`.

    Every cap that is set needs its `groups`, and diversity needs `sketches`. A sample that a cap refuses is passed
    over, and where too few are left the selection is smaller. Raises ConfigError where fewer were scored than the
    selection asks for.
    """
    assert len(samples_B) == len(rewards_B) == len(ids), "samples, rewards and ids differ in length"
    assert np.isfinite(rewards_B).all(), "a failed sample reached the selection"
    count = config.size(num_pool)
    if count > len(samples_B):
        raise ConfigError(
            f"selection asks for {count} samples but only {len(samples_B)} were scored: "
            "lower selection.share or selection.count, or raise search.budget"
        )
    admission = Admission(config.caps.active, groups, count)
    ranked = _ranked(rewards_B, ids, None if admission.active or config.diversity.kind != "none" else count)
    chosen = np.empty(0, np.int64)
    if config.diversity.kind != "none":
        assert sketches is not None, "a diverse selection compares sketches"
        length = shortlisted(config.diversity, count, len(ranked))
        listed = first_within_caps(ranked, length, config, groups, config.diversity.shortlist, count)
        rows_BD = sketches(samples_B[listed], config.diversity.dim)
        chosen = diverse_order(config.diversity, listed, rewards_B[listed], rows_BD, count, admission)
        ranked = ranked[~np.isin(ranked, listed)]
    best = np.concatenate((chosen, _first(ranked, count - len(chosen), admission)))
    return SelectedSubset(
        samples_B[best],
        rewards_B[best].astype(np.float64),
        admission.uses(),
        count if len(best) < count else None,
    )


def first_within_caps(
    ranked: IntArray, count: int, config: Selection, groups: Sequence[Groups], factor: float, size: int
) -> IntArray:
    """Return the first `count` of a ranking with every cap of a selection of `size` widened by `factor`, filled up with
    what the caps refused where there are too few: a list that the selection itself is then made from.
    """
    first = _first(ranked, count, Admission(config.caps.active, groups, size, factor))
    if len(first) == min(count, len(ranked)):
        return first
    rest = ranked[~np.isin(ranked, first)]
    return np.concatenate((first, rest[: count - len(first)]))


def _ranked(rewards_B: Real, ids: Sequence[str], count: int | None) -> IntArray:
    """Return positions by falling reward, equal rewards by id: all of them, or those that can be among the first."""
    positions = np.arange(len(rewards_B))
    if count is not None:  # only ties at the threshold need their ids compared
        positions = np.flatnonzero(rewards_B >= np.partition(rewards_B, len(rewards_B) - count)[len(rewards_B) - count])
    return np.array(sorted(positions.tolist(), key=lambda i: (-rewards_B[i], ids[i])), dtype=np.int64)


def _first(ranked: IntArray, count: int, admission: Admission) -> IntArray:
    """Take the first `count` that the caps admit."""
    if not admission.active:
        return ranked[:count]
    taken: list[int] = []
    for position in ranked.tolist():
        if len(taken) == count:
            break
        if admission.admits(position):
            admission.take(position)
            taken.append(position)
    return np.array(taken, dtype=np.int64)
