"""Where a run's events go besides its folder. Changes nothing in the result."""

from typing import Literal

from pydantic import Field

from clusterucb.config.section import Section


class TensorBoard(Section):
    """Scalars for TensorBoard."""

    folder: str | None = None
    """Where its files go; none means `tensorboard` in the run folder."""


class MLflow(Section):
    """A run of MLflow (`pip install mlflow-skinny`)."""

    uri: str | None = None
    """Tracking server, or a local store such as `sqlite:///mlflow.db`; none means what MLflow's environment says."""
    experiment: str = "clusterucb"


class WandB(Section):
    """A run of Weights & Biases (`pip install wandb`)."""

    project: str = "clusterucb"
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"
    """`offline` writes into the run folder, for `wandb sync`."""


class Sinks(Section):
    """Trackers that are told of progress, losses and rewards by the process that drives the run. One that fails is
    reported and left alone: it never holds a run up."""

    tensorboard: TensorBoard | None = None
    mlflow: MLflow | None = None
    wandb: WandB | None = None
    every_s: float = Field(default=2.0, gt=0)
    """Seconds between two deliveries."""
