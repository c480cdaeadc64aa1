"""What a run is going to compute, stage by stage and micro-batch by micro-batch, before anything is.

Invariant: the code that plans a run plans this too (rounds, micro-batches, audit), so that the counts are those of the
run's own ledger, as long as no sample fails. *Which* samples a bandit will draw nobody knows: uniformly drawn ones
stand in for them, so that a search's tokens and micro-batches are typical rather than exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clusterucb import audit
from clusterucb.config import RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.features.clustering import resolve_k
from clusterucb.run.batching import micro_batches
from clusterucb.run.feature_parts import PreparedPart, prepared_matches, prepared_parts
from clusterucb.run.feature_stage import feature_batches
from clusterucb.run.streams import Streams
from clusterucb.run.target_stage import target_batches
from clusterucb.search.allocators import limit_of
from clusterucb.search.order import PoolOrder
from clusterucb.search.rounds import cold_start_K, round_sizes
from clusterucb.types import IntArray
from clusterucb.until import looks_of

Batches = tuple[IntArray, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StageWork:
    """The micro-batches of one stage. A wave is drained before the next one starts; most stages have one."""

    stage: str
    waves: tuple[Batches, ...]
    backward: bool
    exact: bool
    """Whether these are the very samples; otherwise typical ones stand in."""
    part: PreparedPart | None = None
    """The part of the features that is computed."""

    @property
    def samples(self) -> IntArray:
        """Every sample of the stage."""
        return _joined([batch for wave in self.waves for batch in wave])


@dataclass(frozen=True, slots=True, eq=False)
class PlannedWork:
    """All stages in order. No `clusters` where nothing is clustered, no `rounds` where nothing is searched."""

    clusters: int | None
    rounds: tuple[int, ...]
    stages: tuple[StageWork, ...]
    exhaustive: StageWork
    """Gradients of the whole pool, to compare with."""


def plan_work(config: RunConfig, pool: TokenStore, target: TokenStore) -> PlannedWork:
    """Plan the run over a prepared pool and target."""
    usable, lengths_N, size = np.flatnonzero(pool.usable_N), pool.lengths_N, config.gradients.batch_tokens
    exhaustive = StageWork("exhaustive", (tuple(micro_batches(usable, lengths_N, size)),), True, True)
    examples = tuple(batch for _, batch in target_batches(target, size))
    stages = [StageWork("target", (examples,), True, True)]
    features = config.features
    clustered = config.search.allocator.kind not in ("uniform", "exhaustive")
    parts = [(part, pool) for part in prepared_parts(config, pool) if part.computed]
    for part, rows in [*parts, *((part, target) for part in prepared_matches(config, target))]:
        waves = (tuple(feature_batches(config, part, rows)),)
        stages.append(StageWork(part.stage, waves, part.backward, True, part))
    k = resolve_k(config.clusters, len(usable), config.search.budget) if clustered else None
    if clustered and features.kind == "gradient" and features.path is None:
        stages.append(StageWork("pool", exhaustive.waves, True, True))
        return PlannedWork(k, (), tuple(stages), exhaustive)

    streams = Streams.of(config.seed)
    rounds, looks_audit = _rounds(config, len(usable), k)
    order = PoolOrder.of(np.where(pool.usable_N, 0, -1).astype(np.int32), streams.search)  # the very one, unclustered
    starts = np.cumsum((0, *rounds))
    draws = [order.take(count, int(start)) for count, start in zip(rounds, starts, strict=False)]
    cut = [tuple(micro_batches(drawn, lengths_N, size)) for drawn in draws]
    waves = tuple(cut) if config.search.rounds.lag == 0 else (_joined_batches(cut),)
    stages.append(StageWork("search", waves, True, not clustered))
    undrawn = np.setdiff1d(usable, _joined(draws), assume_unique=True)
    if looks_audit is None:
        audited = audit.choose(undrawn, len(usable), config.audit, streams.audit)
    else:
        audited = np.sort(streams.audit.permutation(undrawn)[:looks_audit])
    if len(audited):
        stages.append(StageWork("audit", (tuple(micro_batches(audited, lengths_N, size)),), True, not clustered))
    return PlannedWork(k, rounds, tuple(stages), exhaustive)


def _rounds(config: RunConfig, usable: int, k: int | None) -> tuple[tuple[int, ...], int | None]:
    """Return the rounds' draws, and with `search.until` the audits of all looks: the most that a run can come to.

    Before clustering, clusters count as evenly sized.
    """
    limit = limit_of(config.search, usable)
    start = limit if k is None else int(cold_start_K(np.diff(np.arange(k + 1) * usable // k), config.search).sum())
    most, audited = limit, None
    if config.search.until is not None:
        last = looks_of(config.search.until, limit, 0 if k is None else min(start, limit))[-1]
        most, audited = last.draws, last.audited
    if k is None:
        return (most,), audited
    return round_sizes(most, min(most, start), config.search.rounds), audited


def _joined(batches: Sequence[IntArray]) -> IntArray:
    return np.concatenate([np.empty(0, np.int64), *batches])


def _joined_batches(waves: Sequence[Batches]) -> Batches:
    return tuple(batch for wave in waves for batch in wave)
