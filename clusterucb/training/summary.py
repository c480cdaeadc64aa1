"""`summary.json` of a training folder: where the checkpoint is and how the loss went."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from clusterucb.run.disk import write_atomically
from clusterucb.run.run_folder import RunFolder
from clusterucb.training.checkpoint import read_record
from clusterucb.training.stretch import Stretch
from clusterucb.training.trainer import kept_checkpoints


class TrainingSummary(BaseModel):
    """The end of a training."""

    model_config = ConfigDict(frozen=True)

    run: str
    checkpoints: tuple[str, ...]
    """Names inside the folder, the final one last."""
    steps: int
    samples: int
    tokens: int
    passes: int
    ranks: int
    first_loss: float
    last_loss: float


def summarise_training(stretch: Stretch, folder: RunFolder) -> TrainingSummary:
    """Write and return the summary of a finished training, the last of its files."""
    record = read_record(folder.path / "checkpoint")
    summary = TrainingSummary(
        run=folder.name,
        checkpoints=tuple(path.name for path in kept_checkpoints(stretch, folder.path)),
        steps=len(record.steps),
        samples=record.samples,
        tokens=sum(step.tokens for step in record.steps),
        passes=sum(step.passes for step in record.steps),
        ranks=record.ranks,
        first_loss=record.steps[0].loss,
        last_loss=record.steps[-1].loss,
    )
    write_atomically(folder.summary_file, summary.model_dump_json(indent=1) + "\n")
    return summary


def read_training_summary(path: Path) -> TrainingSummary:
    """Read what `summarise_training` wrote."""
    return TrainingSummary.model_validate_json(path.read_text(encoding="utf-8"))
