"""What a run spent, against scoring everything: samples, tokens, passes, seconds, by stage.

Invariant: the ledger counts what was computed, features and targets included; nothing is left out to look cheap.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict


class StageCost(BaseModel):
    """Cost of one stage. Seconds are worker seconds, summed over workers."""

    model_config = ConfigDict(frozen=True)

    stage: str
    samples: int
    tokens: int
    forward_passes: int
    backward_passes: int
    seconds: float


class CostLedger(BaseModel):
    """All stages, and what an exhaustive scoring of the pool would have computed."""

    model_config = ConfigDict(frozen=True)

    stages: tuple[StageCost, ...]
    exhaustive: StageCost
    share_of_exhaustive_gradients: float
    """Backward passes over those of the exhaustive scoring."""
    share_of_exhaustive_tokens: float
    """Tokens weighted by passes (forward 1, backward 1) over the exhaustive scoring's."""


def weighted_tokens(cost: StageCost) -> float:
    """Return tokens times passes: with frozen weights a backward pass costs about as much as a forward pass."""
    if cost.samples == 0:
        return 0.0
    return cost.tokens * (cost.forward_passes + cost.backward_passes) / cost.samples


def ledger(stages: Sequence[StageCost], pool_samples: int, pool_tokens: int) -> CostLedger:
    """Sum the stages against the exhaustive scoring of a pool; the target's gradients are paid in both."""
    scored = [stage for stage in stages if stage.backward_passes and stage.stage != "target"]
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
        share_of_exhaustive_gradients=sum(stage.backward_passes for stage in stages) / exhaustive.backward_passes,
        share_of_exhaustive_tokens=sum(weighted_tokens(stage) for stage in stages) / weighted_tokens(exhaustive),
    )
