"""What is to be trained: a stretch of optimizer steps on given samples, from one checkpoint to the next.

Invariant: everything that settles the result is named here, so that a stretch that is taken up again, or repeated
elsewhere, computes the same.
"""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from clusterucb.config import Model, Training
from clusterucb.types import IntArray


class Stretch(BaseModel):
    """A piece of training. Steps count from `first_step` of a schedule of `schedule_steps`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Model
    """The base; its adapter and moments are those of `start`, or what is named here where there is no `start`."""
    training: Training
    pool: Path
    """The tokenised pool."""
    samples: Path
    """A `.npy` file of positions in the pool."""
    start: Path | None = None
    """Checkpoint folder with adapter and moments."""
    seed: int = 0
    """Of a fresh adapter, the order of samples, and dropout."""
    first_step: int = Field(default=0, ge=0)
    steps: int = Field(ge=1)
    schedule_steps: int = Field(ge=1)
    keep: tuple[int, ...] = ()
    """Steps of this stretch after which a checkpoint is kept beside the last one; ascending."""

    def read_samples(self) -> IntArray:
        """Return the positions in the pool."""
        return np.load(self.samples, allow_pickle=False).astype(np.int64)

    @property
    def from_model(self) -> Model:
        """The model as it is at the beginning."""
        if self.start is None:
            return self.model
        return self.model.model_copy(update={"adapter": str(self.start), "moments": str(self.start)})


def steps_an_epoch(num_samples: int, batch_size: int) -> int:
    """Return how many optimizer steps show every sample once."""
    return -(-num_samples // batch_size)


def evenly(steps: int, count: int) -> tuple[int, ...]:
    """Return the steps at which `count` checkpoints are due, the last at the end; fewer where there are fewer steps."""
    return tuple(sorted({-(-steps * (i + 1) // count) for i in range(count)}))
