"""What a run selects by: corrected influence, and the groups of its caps. One place for pipeline, audits and views.

Invariant: corrections are fitted to what the search drew and never to what an audit found, so that an audit's estimate
is of the very ranking that the selection is made from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from clusterucb.config import RunConfig, Selection
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import ConfigError, RunFolderError
from clusterucb.joint import joint_scores
from clusterucb.run.gating import Gated
from clusterucb.run.score_log import ScoreArchive
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.target_columns import TargetColumns
from clusterucb.selection import Groups, SelectedSubset, select
from clusterucb.selection.diversity import Sketches, folded
from clusterucb.selection.length import Correction, fit_correction
from clusterucb.types import FloatArray, IntArray

Real = npt.NDArray[np.float64]
FITTED_TO = ("stored", "search", "pool", "shortlist")
"""Stages whose scores corrections are fitted to: all but the audit."""


@dataclass(frozen=True, slots=True, eq=False)
class PoolGroups:
    """The group of every pool sample under one cap; -1 for none."""

    cap: str
    codes_N: IntArray
    name: Callable[[int], str]

    def of(self, samples_B: IntArray) -> Groups:
        """Return the groups of some samples."""
        return Groups(self.cap, self.codes_N[samples_B], self.name)


def pool_groups(
    config: RunConfig, pool: TokenStore, labels_N: npt.NDArray[np.int32] | None, gated: Gated | None
) -> tuple[PoolGroups, ...]:
    """Return the groups that the caps of a run need, as far as they are known; clusters come last in a run."""
    found: list[PoolGroups] = []
    caps = config.selection.caps.active
    if "source" in caps:
        codes_N, names = pool.sources.codes()
        found.append(PoolGroups("source", codes_N.astype(np.int64), names.__getitem__))
    if "cluster" in caps and labels_N is not None:
        found.append(PoolGroups("cluster", labels_N.astype(np.int64), str))
    if "near_duplicate" in caps:
        none = np.full(pool.num_samples, -1, np.int64)
        found.append(PoolGroups("near_duplicate", none if gated is None else gated.group_N, pool.ids.__getitem__))
    return tuple(found)


def check_caps(config: RunConfig, groups: Sequence[PoolGroups], usable: IntArray) -> None:
    """Refuse a cap that could not be kept even if everything were scored."""
    count = config.selection.size(len(usable))
    for each in groups:
        cap = config.selection.caps.active[each.cap]
        of_usable = each.of(usable)
        if (allowed := of_usable.allowed(cap, count)) < count:
            raise ConfigError(
                f"selection.caps.{each.cap} ({cap.limit(count)} of a group) allows {allowed} of the {count} samples "
                f"asked for from {len(np.unique(of_usable.codes_B))} groups: raise it or lower the selection"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Choosing:
    """A run's way from scores to a selection, as of what is scored."""

    config: RunConfig
    pool: TokenStore
    targets: tuple[TargetColumns, ...]
    corrections: tuple[Correction, ...]
    """One a target."""
    groups: tuple[PoolGroups, ...]
    sketches: Sketches | None = None
    """Of what was scored: what a diverse selection compares."""

    @classmethod
    def of(
        cls,
        config: RunConfig,
        pool: TokenStore,
        targets: Sequence[TargetColumns],
        scored: ScoreTable,
        groups: Sequence[PoolGroups] = (),
        sketches: Sketches | None = None,
    ) -> "Choosing":
        """Fit to `scored`, the table of `FITTED_TO`."""
        lengths_B = pool.label_counts_N[scored.samples_B].astype(np.int64)
        pool_lengths = pool.label_counts_N[pool.usable_N].astype(np.int64)
        unsteered_B = scored.round_B <= 0
        corrections = tuple(
            fit_correction(config.selection.normalise, target.of(scored).reward_B, lengths_B, unsteered_B, pool_lengths)
            for target in targets
        )
        return cls(config, pool, tuple(targets), corrections, tuple(groups), sketches)

    @classmethod
    def of_log(
        cls,
        config: RunConfig,
        pool: TokenStore,
        targets: Sequence[TargetColumns],
        log: ScoreArchive,
        groups: Sequence[PoolGroups] = (),
        undrawn: IntArray | None = None,
    ) -> "Choosing":
        """Fit to what a run has scored so far, or to what of it is not `undrawn`."""
        subtasks = sum(len(target.columns) for target in targets)
        scored = ScoreTable.of(log, subtasks, FITTED_TO)
        if undrawn is not None:
            scored = scored.where(~np.isin(scored.samples_B, undrawn))
        return cls.of(config, pool, targets, scored, groups, partial(read_sketches, log))

    @property
    def corrected(self) -> bool:
        """Whether anything but influence is ranked by."""
        return self.config.selection.normalise.kind != "none"

    def values_BM(self, table: ScoreTable) -> Real:
        """Return what each sample of the table is ranked by, for each target."""
        lengths_B = self.pool.label_counts_N[table.samples_B].astype(np.int64)
        return np.stack(
            [
                correct(target.of(table).reward_B, lengths_B)
                for target, correct in zip(self.targets, self.corrections, strict=True)
            ],
            axis=1,
        )

    def joint_B(self, table: ScoreTable) -> Real:
        """Return what the joint selection goes by: of one target its own values."""
        values_BM = self.values_BM(table)
        if len(self.targets) == 1:
            return values_BM[:, 0]
        weights = [target.weight for target in self.targets]
        return joint_scores(values_BM, weights, self.config.selection.joint)

    def scores(self, table: ScoreTable) -> dict[str, Real]:
        """Return the values as columns to write down, where they are not the influence itself."""
        if not self.corrected:
            return {}
        names = [f"score/{target.name}" if target.name else "score" for target in self.targets]
        return dict(zip(names, self.values_BM(table).T, strict=True))

    def select(self, table: ScoreTable, values_B: Real, selection: Selection, usable: int) -> SelectedSubset:
        """Select from a table by its values."""
        samples_B = table.samples_B
        groups = [each.of(samples_B) for each in self.groups]
        return select(samples_B, values_B, self.pool.ids.take(samples_B), groups, selection, usable, self.sketches)


def read_sketches(log: ScoreArchive, samples: IntArray, dim: int) -> FloatArray:
    """Return what a run keeps of these samples' sketches, folded as they are read, so that no more is in memory."""
    order = np.argsort(samples, kind="stable")
    ascending = samples[order]
    rows_BD: FloatArray | None = None
    found_B = np.zeros(len(samples), np.bool_)
    for block, sketches_BD in log.sketches():
        at = np.searchsorted(ascending, block).clip(max=len(samples) - 1)
        wanted = ascending[at] == block
        if not wanted.any():
            continue
        rows = folded(sketches_BD[wanted], dim)
        if rows_BD is None:
            rows_BD = np.zeros((len(samples), rows.shape[1]), np.float32)
        places = order[at[wanted]]
        rows_BD[places], found_B[places] = rows, True
    if rows_BD is None or not found_B.all():
        raise RunFolderError(
            f"selection.diversity compares sketches, and {int((~found_B).sum())} of {len(samples)} samples have none "
            f"in this run: set gradients.sketch in a new one"
        )
    return rows_BD
