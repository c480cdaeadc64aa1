"""What can be refused before a training starts, and the stretch that follows from a configuration.

Invariant: a training folder holds its stretch before any step is made, and whoever goes on reads it from there.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clusterucb.checkpoint.model import check_model
from clusterucb.config import Gradients, Model, RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import ConfigError, DataError, RunFolderError
from clusterucb.run.disk import replacing, write_atomically
from clusterucb.run.preparation import Claim, prepare_rows
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.tokenisation import Progress
from clusterucb.training.order import generator
from clusterucb.training.stretch import Stretch, evenly, steps_an_epoch
from clusterucb.types import IntArray


@dataclass(frozen=True, slots=True)
class PreparedTraining:
    """A stretch in its folder, and what the user must hear."""

    stretch: Stretch
    claim: Claim
    notes: tuple[str, ...]


def check_training(config: RunConfig) -> None:
    """Refuse a model that cannot be trained here, without loading its weights."""
    check_model(config.model, Gradients())


def prepare_warmup(config: RunConfig, folder: RunFolder, progress: Progress) -> PreparedTraining:
    """Check everything, claim the folder, tokenise the pool and write the stretch of a warm-up."""
    if folder.remote is not None:
        raise RunFolderError(
            f"{folder.location} is a URL: a training needs a path, on storage that all nodes share, for its checkpoints"
        )
    check_training(config)
    claim = Claim(config, folder, "warmup")
    try:
        prepared = prepare_rows(config, folder, progress, claim)
        stretch = warmup_stretch(config, folder, prepared.pool)
        return PreparedTraining(stretch, claim, prepared.notes)
    except BaseException:
        claim.withdraw()
        raise


def warmup_stretch(config: RunConfig, folder: RunFolder, pool: TokenStore) -> Stretch:
    """Return the stretch of the warm-up, written to `folder`: a random part of the usable pool."""
    usable = np.flatnonzero(pool.usable_N)
    if not len(usable):
        raise DataError(f"{config.pool.path} has no usable sample to train on")
    count = max(1, int(config.warmup.share * len(usable) + 1e-9))
    chosen = np.sort(generator("warm-up", config.seed).permutation(usable)[:count])
    epoch = steps_an_epoch(count, config.training.batch_size)
    steps = config.warmup.steps or epoch * config.warmup.epochs
    if config.warmup.checkpoints > steps:
        raise ConfigError(
            f"warmup.checkpoints is {config.warmup.checkpoints} and the warm-up has {steps} steps: raise warmup.share, "
            f"warmup.epochs or warmup.steps, or lower training.batch_size ({config.training.batch_size})"
        )
    keep = evenly(steps, config.warmup.checkpoints)
    return write_stretch(folder, config, config.model, pool, chosen, steps=steps, schedule_steps=steps, keep=keep)


def write_stretch(
    folder: RunFolder,
    config: RunConfig,
    model: Model,
    pool: TokenStore,
    samples: IntArray,
    *,
    steps: int,
    schedule_steps: int,
    first_step: int = 0,
    start: Path | None = None,
    keep: tuple[int, ...] = (),
) -> Stretch:
    """Put a stretch in its folder and return it; raises RunFolderError where another one stands there."""
    file = folder.state / "stretch.json"
    stretch = Stretch(
        model=model,
        training=config.training,
        pool=pool.folder,
        samples=folder.state / "samples.npy",
        start=start,
        seed=config.seed,
        first_step=first_step,
        steps=steps,
        schedule_steps=schedule_steps,
        keep=keep,
    )
    text = stretch.model_dump_json(indent=1) + "\n"
    if file.exists():
        if file.read_text(encoding="utf-8") != text or not np.array_equal(stretch.read_samples(), samples):
            raise RunFolderError(f"{folder.location} holds another training: delete it, or give another --out")
        return stretch
    with replacing(stretch.samples) as beside, beside.open("wb") as opened:
        np.save(opened, samples)
    write_atomically(file, text)
    return stretch
