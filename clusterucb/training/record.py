"""What a checkpoint says of its making: the settings, the versions, and every step's loss."""

from pydantic import BaseModel, ConfigDict

from clusterucb.config import Training


class StepRecord(BaseModel):
    """One optimizer step; `loss` is the mean over its label tokens."""

    model_config = ConfigDict(frozen=True)

    step: int
    learning_rate: float
    loss: float
    gradient_norm: float
    samples: int
    tokens: int
    labels: int
    passes: int


class CheckpointRecord(BaseModel):
    """`training.json` of a checkpoint. No clock and no path of this machine is in it, so that equal trainings leave
    equal bytes."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    base: str
    step: int
    """Optimizer steps made so far, by all stretches."""
    schedule_steps: int
    learning_rate: float
    """Of the last step."""
    mean_learning_rate: float
    """Over the steps since the checkpoint kept before: the weight of this checkpoint in a static influence."""
    samples: int
    """Samples trained on since the stretch began, repetitions counted."""
    training: Training
    seed: int
    ranks: int
    versions: dict[str, str]
    steps: tuple[StepRecord, ...]
    """The stretch's steps so far."""
