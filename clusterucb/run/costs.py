"""What a run spent, against scoring everything: samples, tokens, passes, seconds, by stage.

Invariant: the ledger counts what was computed, features and targets included; nothing is left out to look cheap.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from clusterucb.data.tokens import TokenStore
from clusterucb.run.disk import write_atomically
from clusterucb.run.part_names import STAGES as FEATURES
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import STAGES, ScoreArchive
from clusterucb.types import IntArray


class StageCost(BaseModel):
    """Cost of one stage. Seconds are worker seconds, summed over workers.

    `share` is what a pass of the stage costs, a token, where a pass through the run's model costs 1: parameters used
    over the model's parameters. A pass takes about two operations a parameter and token, forward; that all parameters
    count, input embeddings too, errs towards small models being dear.
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    samples: int
    tokens: int
    forward_passes: int
    backward_passes: int
    seconds: float
    share: float = 1.0
    reused: int = 0
    """Further samples whose sketches were taken from the store: none of the counts above has them."""


class CostLedger(BaseModel):
    """All stages, and what an exhaustive scoring of the pool would have computed."""

    model_config = ConfigDict(frozen=True)

    stages: tuple[StageCost, ...]
    exhaustive: StageCost
    share_of_exhaustive_gradients: float
    """Backward passes over those of the exhaustive scoring, those of a proxy by their share."""
    share_of_exhaustive_tokens: float
    """Tokens weighted by passes (forward 1, backward 1) over the exhaustive scoring's. A forward pass that stops early,
    and the passes of another model, count by the share of the model's parameters that they use."""
    share_of_exhaustive_seconds: float | None
    """Worker seconds over those that scoring everything would have taken at this run's rate; none before a run."""


def weighted_tokens(cost: StageCost) -> float:
    """Return tokens times passes: with frozen weights a backward pass costs about as much as a forward pass."""
    if cost.samples == 0:
        return 0.0
    return cost.share * cost.tokens * (cost.forward_passes + cost.backward_passes) / cost.samples


def ledger(stages: Sequence[StageCost], pool_samples: int, pool_tokens: int) -> CostLedger:
    """Sum the stages against the exhaustive scoring of a pool; the target's gradients are paid in both."""
    scored = [stage for stage in stages if stage.backward_passes and stage.stage not in ("target", *FEATURES)]
    seconds_per_token = sum(stage.seconds for stage in scored) / max(1, sum(stage.tokens for stage in scored))
    target = [stage for stage in stages if stage.stage == "target"]
    exhaustive = StageCost(
        stage="exhaustive",
        samples=pool_samples + sum(stage.samples for stage in target),
        tokens=pool_tokens + sum(stage.tokens for stage in target),
        forward_passes=pool_samples + sum(stage.forward_passes for stage in target),
        backward_passes=pool_samples + sum(stage.backward_passes for stage in target),
        seconds=seconds_per_token * pool_tokens + sum(stage.seconds for stage in target),
    )
    return CostLedger(
        stages=tuple(stages),
        exhaustive=exhaustive,
        share_of_exhaustive_gradients=sum(stage.share * stage.backward_passes for stage in stages)
        / exhaustive.backward_passes,
        share_of_exhaustive_tokens=sum(weighted_tokens(stage) for stage in stages) / weighted_tokens(exhaustive),
        share_of_exhaustive_seconds=sum(stage.seconds for stage in stages) / exhaustive.seconds
        if exhaustive.seconds
        else None,
    )


def cost_of(
    stage: str, store: TokenStore, samples: IntArray, *, backward: bool, seconds: float, share: float = 1.0
) -> StageCost:
    """Count one pass over samples: forward, and backward where gradients were taken."""
    return StageCost(
        stage=stage,
        samples=len(samples),
        tokens=int(store.lengths_N[samples].sum()),
        forward_passes=len(samples),
        backward_passes=len(samples) if backward else 0,
        seconds=seconds,
        share=share,
    )


def scored_cost(stage: str, log: ScoreArchive, store: TokenStore) -> StageCost:
    """Count what the log holds of a stage, failures included: they were computed."""
    scored = [entry.scores for entry in log if entry.stage == stage and not entry.reused]
    reused = sum(len(entry.scores.samples_B) for entry in log if entry.stage == stage and entry.reused)
    samples = [scores.samples_B for scores in scored]
    samples += [np.asarray([failure.sample for failure in scores.failures], dtype=np.int64) for scores in scored]
    together = np.concatenate([np.empty(0, np.int64), *samples])
    cost = cost_of(stage, store, together, backward=True, seconds=sum(scores.seconds for scores in scored))
    return cost.model_copy(update={"reused": reused})


def save_cost(folder: RunFolder, cost: StageCost) -> None:
    """Keep the cost of a stage whose answers are not logged, so that a resumed run still counts it."""
    path = folder.state / "cost" / f"{cost.stage}.json"
    write_atomically(path, cost.model_dump_json())
    folder.replica.put(path)


def saved_costs(folder: RunFolder) -> list[StageCost]:
    """Return the costs kept by `save_cost`."""
    paths = [folder.state / "cost" / f"{stage}.json" for stage in ("target", *FEATURES)]
    return [StageCost.model_validate_json(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def run_costs(folder: RunFolder, log: ScoreArchive, pool: TokenStore, usable_N: npt.NDArray[np.bool_]) -> CostLedger:
    """Sum what a run has computed so far; an exhaustive scoring would have taken what of the pool is usable."""
    costs = [*saved_costs(folder), *(scored_cost(stage, log, pool) for stage in STAGES)]
    return ledger(
        [cost for cost in costs if cost.samples or cost.reused],
        int(usable_N.sum()),
        int(pool.lengths_N[usable_N].sum()),
    )
