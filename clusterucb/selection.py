"""The chosen subset: the k best rewards, equal ones by id, so that the same scores give the same selection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from clusterucb.config import Selection
from clusterucb.errors import ConfigError
from clusterucb.types import IntArray


@dataclass(frozen=True, slots=True, eq=False)
class SelectedSubset:
    """Selected samples, best first."""

    samples_B: IntArray
    rewards_B: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.samples_B)

    @property
    def threshold(self) -> float:
        """The smallest reward selected."""
        return float(self.rewards_B[-1])


def select(
    samples_B: IntArray,
    rewards_B: npt.NDArray[np.float64],
    ids: Sequence[str],
    sources: Sequence[str] | None,
    config: Selection,
    num_pool: int,
) -> SelectedSubset:
    """Select from B scored samples (`ids[i]` and `sources[i]` belong to `samples_B[i]`) for a pool of `num_pool`.

    Raises ConfigError where fewer were scored, or fewer are allowed by `max_per_source`, than the selection asks for.
    """
    assert len(samples_B) == len(rewards_B) == len(ids), "samples, rewards and ids differ in length"
    assert np.isfinite(rewards_B).all(), "a failed sample reached the selection"
    count = config.size(num_pool)
    if count > len(samples_B):
        raise ConfigError(
            f"selection asks for {count} samples but only {len(samples_B)} were scored: "
            "lower selection.share or selection.count, or raise search.budget"
        )
    if config.max_per_source is None or sources is None:
        # Only ties at the threshold need their ids compared.
        cut = np.partition(rewards_B, len(rewards_B) - count)[len(rewards_B) - count]
        best = _by_reward_and_id(np.flatnonzero(rewards_B >= cut), rewards_B, ids)[:count]
    else:
        ranked = _by_reward_and_id(np.arange(len(rewards_B)), rewards_B, ids)
        best = _capped(ranked, sources, count, config.max_per_source)
    return SelectedSubset(samples_B[best], rewards_B[best].astype(np.float64))


def _by_reward_and_id(positions: IntArray, rewards_B: npt.NDArray[np.float64], ids: Sequence[str]) -> IntArray:
    """Sort positions by falling reward, equal rewards by id."""
    return np.array(sorted(positions.tolist(), key=lambda i: (-rewards_B[i], ids[i])), dtype=np.int64)


def _capped(ranked: IntArray, sources: Sequence[str], count: int, max_share: float) -> IntArray:
    """Take the first `count`, passing over sources that have their share of them."""
    cap = max(1, int(max_share * count + 1e-9))
    taken: dict[str, int] = {}
    best: list[int] = []
    for position in cast(list[int], ranked.tolist()):
        source: str = sources[position]
        if taken.get(source, 0) < cap:
            taken[source] = taken.get(source, 0) + 1
            best.append(position)
        if len(best) == count:
            return np.array(best, dtype=np.int64)
    raise ConfigError(
        f"selection.max_per_source ({max_share:g}) allows {cap} of each of {len(taken)} sources, {len(best)} of the "
        f"{count} samples asked for: raise it, lower the selection or raise search.budget"
    )
