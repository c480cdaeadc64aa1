"""What each period of a loop selects with: an ordinary configuration, made from that of the loop.

Invariant: a period's configuration follows from the loop's, the period's number and the folders of earlier stages, so
that a period is a run folder like any other, which can be looked at, resumed and repeated alone.
"""

from dataclasses import dataclass
from pathlib import Path

from clusterucb.config import (
    Audit,
    Exhaustive,
    Feature,
    Features,
    GradientFeatures,
    RunConfig,
    Search,
    Selection,
    SeveralFeatures,
)
from clusterucb.errors import ConfigError
from clusterucb.run.run_folder import RunFolder

_WARM_ALLOCATORS = ("ucb_beta", "ucb1")


@dataclass(frozen=True, slots=True)
class LoopFolders:
    """Where the stages of a loop lie. Each is a run folder of its own."""

    root: Path

    @property
    def warmup(self) -> Path:
        """The warm-up's training."""
        return self.root / "warmup"

    def selection(self, period: int) -> Path:
        """Selection of a period, from 1."""
        return self.root / f"period-{period}"

    def training(self, period: int) -> Path:
        """Training of a period, from 1."""
        return self.root / f"training-{period}"

    def scoring(self, checkpoint: int) -> Path:
        """Exhaustive scoring at a checkpoint of the warm-up, from 1: of the static mode."""
        return self.root / f"checkpoint-{checkpoint}"

    def begun_selections(self) -> list[RunFolder]:
        """Return the selections and scorings that are begun, in their order."""
        found = [RunFolder(path) for name in ("period", "checkpoint") for path in self.root.glob(f"{name}-*")]
        begun = [folder for folder in found if folder.exists]
        return sorted(begun, key=lambda folder: int(folder.name.rpartition("-")[2]))

    @property
    def adapter(self) -> Path:
        """The final adapter, with its moments."""
        return self.root / "adapter"

    @property
    def merged(self) -> Path:
        """The model with the adapter merged in."""
        return self.root / "merged"


def check_loop(config: RunConfig) -> None:
    """Refuse what cannot be a loop."""
    loop = config.loop
    if (config.model.adapter is None) != (config.model.moments is None):
        raise ConfigError(
            "a loop takes model.adapter and model.moments together, in place of its warm-up, or neither: give the "
            "other too, or leave both out"
        )
    if loop.mode == "static":
        if config.targets:
            raise ConfigError("loop.mode static knows one target: give target, with subtasks, in place of targets")
        if config.selection.caps.cluster is not None or config.selection.diversity.kind != "none":
            raise ConfigError(
                "loop.mode static clusters nothing and sums influence, not sketches, over checkpoints: leave "
                "selection.caps.cluster and selection.diversity out"
            )
        if config.model.adapter is not None:
            raise ConfigError(
                "loop.mode static scores at the warm-up's checkpoints: leave model.adapter and moments out"
            )
        return
    if loop.first == "exhaustive" and config.gradients.sketch.kind == "none":
        raise ConfigError(
            "loop.first exhaustive clusters by gradients but gradients.sketch is none: use the hash sketch, or "
            "loop.first search"
        )


def period_config(config: RunConfig, period: int, checkpoint: Path | None, folders: LoopFolders) -> RunConfig:
    """Return the configuration of a period's selection at a checkpoint (None: the model as it was brought)."""
    loop, tree = config.loop, config.model_dump(mode="json")
    tree["seed"] = config.seed + period - 1
    tree["model"] = _at(config, checkpoint)
    last = None if period == 1 else str(folders.selection(period - 1))
    tree["features"] = _features(config, last).model_dump(mode="json")
    if last is None:
        return RunConfig.model_validate(tree)
    if loop.clusters == "keep" and config.search.allocator.kind not in ("uniform", "exhaustive"):
        tree["clusters"]["path"] = str(folders.selection(1))
    corrected = config.selection.normalise.kind == "length_trend"  # the last period's means are of influence itself
    if loop.warm_start is not None and config.search.allocator.kind in _WARM_ALLOCATORS and not corrected:
        tree["search"]["warm_start"] = {"path": last, **loop.warm_start.model_dump(mode="json")}
    return RunConfig.model_validate(tree)


def scoring_config(config: RunConfig, checkpoint: Path) -> RunConfig:
    """Return the configuration that scores the whole pool at a checkpoint of the warm-up."""
    tree = config.model_dump(mode="json")
    tree["model"] = _at(config, checkpoint)
    tree["search"] = Search(allocator=Exhaustive()).model_dump(mode="json")
    tree["selection"] = Selection(share=1.0).model_dump(mode="json")
    tree["audit"] = Audit(samples=0).model_dump(mode="json")
    return RunConfig.model_validate(tree)


def _at(config: RunConfig, checkpoint: Path | None) -> dict[str, object]:
    model = config.model
    if checkpoint is not None:
        model = model.model_copy(update={"adapter": str(checkpoint), "moments": str(checkpoint)})
    return model.model_dump(mode="json")


def _features(config: RunConfig, last: str | None) -> Features:
    if last is None:
        return GradientFeatures() if config.loop.first == "exhaustive" else config.features
    earlier = GradientFeatures(path=last)
    if config.loop.first == "exhaustive":
        return earlier
    if config.search.allocator.kind != "predictive":
        return config.features
    parts: tuple[Feature, ...] = config.features.parts if config.features.kind == "several" else (config.features,)
    return SeveralFeatures(parts=(*parts, earlier))
