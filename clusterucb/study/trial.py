"""One training of a study, judged on the way: an arm, a seed, a folder.

Invariants: the folder holds its stretch before any step; its curve is written last, and a trial that has one is over;
checkpoints on the way are gone by then, the last one stays.
"""

# transformers and peft are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from clusterucb.checkpoint.model import load_model
from clusterucb.data.tokens import TokenStore
from clusterucb.evaluation.adapters import put_adapter
from clusterucb.evaluation.evaluate import judge_store
from clusterucb.evaluation.judged import Judged, Measure, measure
from clusterucb.evaluation.lines import Lines
from clusterucb.run.disk import write_atomically
from clusterucb.run.events import Emit, Evaluated
from clusterucb.training.stretch import Stretch
from clusterucb.training.trainer import Place, kept_checkpoints, train

CURVE = "curve.json"


class Trial(BaseModel):
    """What is to be done; `steps` of the stretch may be none, for the model that is not trained."""

    model_config = ConfigDict(frozen=True)

    arm: str
    seed: int
    folder: Path
    held_out: Path
    """Tokens of the examples to judge by."""
    batch_tokens: int
    stretch: Stretch | None
    """None: the model as it is, which `model` is of the first stretch."""
    start: Stretch
    """A stretch that begins where this trial does."""

    @property
    def name(self) -> str:
        """How it is called to the user."""
        return "no training" if self.stretch is None else f"{self.arm}, seed {self.seed}"

    @property
    def curve_file(self) -> Path:
        """Where its curve is, once it is over."""
        return self.folder / CURVE


class Point(BaseModel):
    """Held-out loss after some steps."""

    model_config = ConfigDict(frozen=True)

    step: int
    measure: Measure
    examples: tuple[Judged, ...]


class Curve(BaseModel):
    """What a trial found."""

    model_config = ConfigDict(frozen=True)

    arm: str
    seed: int
    points: tuple[Point, ...]


def try_out(trial: Trial, place: Place, emit: Emit, stopped: Callable[[], bool] = lambda: False) -> Curve:
    """Train, judge, and leave the curve; what is there already is gone on from. Raises Stopped on request."""
    if trial.curve_file.exists():
        return Curve.model_validate_json(trial.curve_file.read_bytes())
    steps: dict[int, Path | None] = {0: None}
    if trial.stretch is not None:
        train(trial.stretch, trial.folder, place, emit, stopped)
        kept = kept_checkpoints(trial.stretch, trial.folder)
        steps = dict(zip(trial.stretch.keep, kept, strict=True))
    curve = Curve(arm=trial.arm, seed=trial.seed, points=_points(trial, steps, place.device, emit, stopped))
    write_atomically(trial.curve_file, curve.model_dump_json() + "\n")
    for checkpoint in steps.values():
        if checkpoint is not None and checkpoint != trial.folder / "checkpoint":
            shutil.rmtree(checkpoint, ignore_errors=True)
    return curve


def read_curve(trial: Trial) -> Curve:
    """Return the curve of a trial that is over."""
    return Curve.model_validate_json(trial.curve_file.read_bytes())


def _points(
    trial: Trial, steps: dict[int, Path | None], device: torch.device, emit: Emit, stopped: Callable[[], bool]
) -> tuple[Point, ...]:
    start = trial.start
    model = load_model(start.from_model, device, start.seed, "lora").model
    store = TokenStore.open(trial.held_out)
    points: list[Point] = []
    for step, checkpoint in sorted(steps.items()):
        if checkpoint is not None:
            put_adapter(model, checkpoint)
        lines = Lines(trial.folder / "state" / f"judged-{step}.jsonl", Judged)
        found = judge_store(model, store, trial.batch_tokens, device, lines, emit, stopped)
        measured = measure(found)
        emit(Evaluated(what=trial.name, step=step, loss=measured.loss, accuracy=measured.accuracy))
        points.append(Point(step=step, measure=measured, examples=found))
    return tuple(points)
