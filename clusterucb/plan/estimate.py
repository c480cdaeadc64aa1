"""What a run will cost, told before it starts: samples, tokens, passes, time, memory, disk.

Invariant: an estimate says which of its numbers are exact. Passes always are (as long as no sample fails); tokens are
where the samples are known beforehand; time is there only where a worker was timed, and assumes that workers do not
slow each other down; memory and disk follow from sizes alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from clusterucb.checkpoint.model import ModelShape
from clusterucb.config import RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.plan.calibration import Calibration, Kind, Timing
from clusterucb.plan.footprint import DiskEstimate, MemoryEstimate, disk_of, memory_of
from clusterucb.plan.planned_work import PlannedWork, StageWork
from clusterucb.run.costs import StageCost, cost_of, ledger
from clusterucb.run.prepared import target_subtasks


@dataclass(frozen=True, slots=True)
class RowsEstimate:
    """What became of the rows that the user brought."""

    samples: int
    usable: int
    tokens: int
    """Of the usable samples."""
    truncated: int
    skipped: int
    excluded: tuple[tuple[str, int], ...]
    """Reasons and how many samples each excludes."""


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """Counts of one stage; `tokens_exact` is false where typical samples stand in for those that a search will draw."""

    stage: str
    samples: int
    tokens: int
    tokens_exact: bool
    forward_passes: int
    backward_passes: int
    micro_batches: int
    worker_seconds: float | None
    wall_seconds: float | None
    share: float = 1.0
    """What a pass costs, a token, against one through the model."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the calibration saw: one worker, on this device."""

    device: str
    load_seconds: float
    peak_gib: float
    """Most memory that the worker's process held so far, of the kind that `MemoryEstimate` counts."""
    timings: tuple[Timing, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """The preview of one run. `workers` and all seconds are none where nothing was calibrated."""

    pool: RowsEstimate
    target: RowsEstimate
    subtasks: int
    clusters: int | None
    budget: int
    """Samples that are scored for the selection; the audit comes on top."""
    rounds: tuple[int, ...]
    selected: int
    stages: tuple[StageEstimate, ...]
    exhaustive: StageEstimate
    """Target and pool, all gradients."""
    share_of_exhaustive_gradients: float
    share_of_exhaustive_tokens: float
    workers: int | None
    wall_seconds: float | None
    """Loading the model and all stages; reading, clustering and writing come on top."""
    memory: MemoryEstimate
    disk: DiskEstimate
    measured: Measured | None
    notes: tuple[str, ...]


def stage_estimates(
    work: Sequence[StageWork], pool: TokenStore, target: TokenStore, calibration: Calibration | None, workers: int
) -> tuple[StageEstimate, ...]:
    """Count, and where a worker was timed also clock, some stages."""

    def store(stage: StageWork) -> TokenStore:
        return target if stage.stage == "target" else pool if stage.part is None else stage.part.tokens

    return tuple(_stage(stage, store(stage), calibration, workers) for stage in work)


def estimate(
    config: RunConfig,
    shape: ModelShape,
    work: PlannedWork,
    pool: TokenStore,
    target: TokenStore,
    feature_width: int | None,
    calibration: Calibration | None,
    measured: Measured | None,
    workers: int | None,
    notes: tuple[str, ...],
) -> Estimate:
    """Put everything together; `feature_width` is that of all parts of the features, where it is known."""
    stages = stage_estimates(work.stages, pool, target, calibration, workers or 1)
    usable = int(pool.usable_N.sum())
    costs = ledger([_cost(stage) for stage in stages], usable, int(pool.lengths_N[pool.usable_N].sum()))
    whole = stage_estimates([work.exhaustive], pool, target, calibration, workers or 1)[0]
    subtasks = len(target_subtasks(target))
    wall = None if measured is None else measured.load_seconds + sum(stage.wall_seconds or 0.0 for stage in stages)
    on_device = config.workers.num_gpus not in ("auto", 0) if measured is None else measured.device != "cpu"
    scored = sum(stage.samples for stage in stages if stage.stage in ("search", "pool", "audit"))
    return Estimate(
        pool=_rows(pool),
        target=_rows(target),
        subtasks=subtasks,
        clusters=work.clusters,
        budget=sum(work.rounds) or usable,
        rounds=work.rounds,
        selected=config.selection.size(usable),
        stages=stages,
        exhaustive=_sum("exhaustive", (stages[0], whole)),
        share_of_exhaustive_gradients=costs.share_of_exhaustive_gradients,
        share_of_exhaustive_tokens=costs.share_of_exhaustive_tokens,
        workers=workers,
        wall_seconds=wall,
        memory=memory_of(config, shape, work, pool, target, subtasks, on_device),
        disk=disk_of(config, shape, pool, target, subtasks, scored, feature_width),
        measured=measured,
        notes=notes,
    )


def _rows(store: TokenStore) -> RowsEstimate:
    excluded = Counter(failure.reason for failure in store.failures)
    return RowsEstimate(
        samples=store.num_samples,
        usable=int(store.usable_N.sum()),
        tokens=int(store.lengths_N[store.usable_N].sum()),
        truncated=store.num_truncated,
        skipped=store.num_skipped,
        excluded=tuple(sorted(excluded.items())),
    )


def _stage(work: StageWork, store: TokenStore, calibration: Calibration | None, workers: int) -> StageEstimate:
    share = 1.0 if work.part is None else work.part.share
    cost = cost_of(work.stage, store, work.samples, backward=work.backward, seconds=0.0, share=share)
    batches = [batch for wave in work.waves for batch in wave]
    worker_seconds = wall_seconds = None
    if calibration is not None:
        kind: Kind = work.part.name if work.part is not None else "target" if work.stage == "target" else "gradients"
        speed = calibration.speed(kind)
        waves = [speed.seconds(wave, store.lengths_N) for wave in work.waves if wave]
        worker_seconds = float(sum(seconds.sum() for seconds in waves))
        # The longest come first, so that a wave ends when its work is spread evenly, or with its longest batch.
        wall_seconds = float(sum(max(seconds.sum() / workers, seconds.max()) for seconds in waves))
    return StageEstimate(
        stage=work.stage,
        samples=cost.samples,
        tokens=cost.tokens,
        tokens_exact=work.exact,
        forward_passes=cost.forward_passes,
        backward_passes=cost.backward_passes,
        micro_batches=len(batches),
        worker_seconds=worker_seconds,
        wall_seconds=wall_seconds,
        share=share,
    )


def _cost(stage: StageEstimate) -> StageCost:
    return StageCost(
        stage=stage.stage,
        samples=stage.samples,
        tokens=stage.tokens,
        forward_passes=stage.forward_passes,
        backward_passes=stage.backward_passes,
        seconds=stage.worker_seconds or 0.0,
        share=stage.share,
    )


def _sum(name: str, stages: Sequence[StageEstimate]) -> StageEstimate:
    def seconds(values: Sequence[float | None]) -> float | None:
        return None if None in values else sum(value or 0.0 for value in values)

    return StageEstimate(
        stage=name,
        samples=sum(stage.samples for stage in stages),
        tokens=sum(stage.tokens for stage in stages),
        tokens_exact=all(stage.tokens_exact for stage in stages),
        forward_passes=sum(stage.forward_passes for stage in stages),
        backward_passes=sum(stage.backward_passes for stage in stages),
        micro_batches=sum(stage.micro_batches for stage in stages),
        worker_seconds=seconds([stage.worker_seconds for stage in stages]),
        wall_seconds=seconds([stage.wall_seconds for stage in stages]),
    )
