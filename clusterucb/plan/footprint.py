"""What a run occupies, from sizes alone: memory of one worker, disk of the run folder."""

from collections.abc import Sequence
from dataclasses import dataclass

from clusterucb.checkpoint.model import ModelShape
from clusterucb.config import RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.plan.planned_work import PlannedWork
from clusterucb.run.feature_parts import OTHER_MODELS
from clusterucb.types import IntArray

SAVED_PER_TOKEN = 14
"""Hidden widths that autograd and the hooks keep for each token and block, base weights frozen (counted on a Llama)."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that one worker holds, on the device where it has one, else on the host."""

    on_device: bool
    weights: int
    adapter_and_moments: int
    feature_models: int
    """Weights of the models that only features are computed with."""
    target_bank: int
    sketch_signs: int
    activations: int
    """Of the largest micro-batch, one chunk of logits included."""
    target_gradients: int
    """Whole gradients of the largest micro-batch of target examples, gone once the target stage is through."""

    @property
    def total(self) -> int:
        """Bytes at the peak: the bank comes when the target's gradients are gone."""
        scoring = self.target_bank + self.sketch_signs
        held = self.weights + self.adapter_and_moments + self.feature_models + self.activations
        return held + max(scoring, self.target_gradients + self.sketch_signs)


@dataclass(frozen=True, slots=True)
class DiskEstimate:
    """Bytes in the run folder's `state`; the tables of scores are small beside them."""

    tokens: int
    features: int | None
    """None where their width is not known beforehand."""
    sketches: int
    target_bank: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.tokens + (self.features or 0) + self.sketches + self.target_bank


def memory_of(
    config: RunConfig,
    shape: ModelShape,
    work: PlannedWork,
    pool: TokenStore,
    target: TokenStore,
    subtasks: int,
    on_device: bool,
) -> MemoryEstimate:
    """Add up what a worker holds for the planned micro-batches."""
    coordinates, sketch = shape.gradient_coordinates, config.gradients.sketch
    half = config.model.dtype == "bfloat16" or (config.model.dtype == "auto" and on_device)
    moments = config.model.moments is not None and config.gradients.precondition.kind == "adam"
    examples = work.stages[0].waves[0]
    passes = [stage for stage in work.stages[1:] if stage.backward and stage.part is None]
    scored = [batch for stage in passes for wave in stage.waves for batch in wave]
    parts = [stage.part for stage in work.stages if stage.part is not None and stage.part.side == "pool"]
    others = sum(part.share for part in parts if part.features.kind in OTHER_MODELS) * shape.num_parameters
    tokens = max(_padded(examples, target.lengths_N), _padded(scored, pool.lengths_N))
    width = 2 if half else 4
    logits = min(config.gradients.loss_chunk, tokens) * shape.vocab_size * 4 if on_device else 48 * 2**20
    return MemoryEstimate(
        on_device=on_device,
        weights=shape.num_parameters * width,
        adapter_and_moments=4 * coordinates * ((config.gradients.modules == "lora") + 2 * moments),
        feature_models=round(others * 4),
        target_bank=4 * subtasks * coordinates,
        sketch_signs=4 * coordinates * sketch.nonzeros if sketch.kind == "hash" else 0,
        activations=tokens * shape.num_layers * shape.hidden_size * SAVED_PER_TOKEN * width + logits,
        target_gradients=4 * coordinates * max(len(batch) for batch in examples),
    )


def disk_of(
    config: RunConfig,
    shape: ModelShape,
    pool: TokenStore,
    target: TokenStore,
    subtasks: int,
    scored: int,
    feature_width: int | None,
) -> DiskEstimate:
    """Add up the large files, `scored` samples leaving a sketch each."""
    dim = 0 if config.gradients.sketch.kind == "none" else config.gradients.sketch.dim
    files = [path for store in (pool, target) for path in store.folder.iterdir()]
    return DiskEstimate(
        tokens=sum(path.stat().st_size for path in files),
        features=None if feature_width is None else pool.num_samples * feature_width * 2,
        sketches=scored * dim * 2,
        target_bank=4 * subtasks * (shape.gradient_coordinates + dim),
    )


def _padded(batches: Sequence[IntArray], lengths_N: IntArray) -> int:
    return max((len(batch) * int(lengths_N[batch].max()) for batch in batches), default=0)
