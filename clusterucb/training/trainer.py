"""The steps of a stretch, on one rank: the same code in one process, under Ray Train, and with ZeRO.

Invariants: step by step the same samples, rates and random streams, whether or not it was interrupted; what is on disk
goes on from the last step saved. Random numbers are drawn from streams counted by seed, step and pass, so that none has
to be kept.
"""

# torch, transformers and peft are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from torch import distributed

from clusterucb.checkpoint.layers import find_layers
from clusterucb.checkpoint.model import load_model, load_tokenizer
from clusterucb.checkpoint.moments import Moments, check_moments, load_moments
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import ModelError, Stopped
from clusterucb.run.events import Emit, StageFinished, StageStarted, Stepped, Trained
from clusterucb.run.run_folder import versions
from clusterucb.training.batches import Pass, check_packing, output_embedding, pass_of
from clusterucb.training.checkpoint import read_record, write_checkpoint
from clusterucb.training.engine import Engine, TorchEngine, trainable
from clusterucb.training.order import Order, dealt, generator
from clusterucb.training.record import CheckpointRecord, StepRecord
from clusterucb.training.schedule import learning_rate
from clusterucb.training.stretch import Stretch
from clusterucb.types import IntArray


@dataclass(frozen=True, slots=True)
class Place:
    """Which of how many ranks this is, and the device it computes on."""

    rank: int
    ranks: int
    device: torch.device


ALONE = Place(0, 1, torch.device("cpu"))


def train(
    stretch: Stretch, folder: Path, place: Place, emit: Emit, stopped: Callable[[], bool] = lambda: False
) -> Path:
    """Make the steps of a stretch and return the checkpoint it ends in, `folder`/checkpoint.

    All ranks call this; rank 0 writes and emits. What `folder` holds already is gone on from. Raises ModelError where
    the loss is not finite any more, Stopped where `stopped` (asked on rank 0) says so.
    """
    ending = folder / "checkpoint"
    if ending.exists():
        return ending
    run = _Run(stretch, folder, place)
    if place.rank == 0:
        emit(StageStarted(stage="training", total=stretch.steps, done=len(run.records)))
    while len(run.records) < stretch.steps:
        if run.agree(stopped()):
            if run.records:
                run.save(folder / "state" / f"step-{len(run.records)}")
            raise Stopped("stopped; the steps made are kept")
        record = run.step()
        if place.rank == 0:
            emit(_stepped(record))
        done = len(run.records)
        if done in stretch.keep and done < stretch.steps:
            run.save(folder / f"checkpoint-{done}")
        if done % stretch.training.save_every == 0 and done < stretch.steps:
            run.save(folder / "state" / f"step-{done}")
    run.save(ending)
    if place.rank == 0:
        for old in (*(folder / "state").glob("step-*"), *folder.rglob(".*.writing")):
            shutil.rmtree(old, ignore_errors=True)
        emit(StageFinished(stage="training"))
        emit(Trained(steps=len(run.records), loss=run.records[-1].loss))
    return ending


def _stepped(record: StepRecord) -> Stepped:
    return Stepped(
        step=record.step,
        learning_rate=record.learning_rate,
        loss=record.loss,
        gradient_norm=record.gradient_norm,
        tokens=record.tokens,
    )


def kept_checkpoints(stretch: Stretch, folder: Path) -> tuple[Path, ...]:
    """Return the checkpoints of a finished stretch that were to be kept, the last included, in order."""
    return (*(folder / f"checkpoint-{step}" for step in stretch.keep if step < stretch.steps), folder / "checkpoint")


class _Run:
    """A stretch on its way."""

    def __init__(self, stretch: Stretch, folder: Path, place: Place) -> None:
        self._stretch = stretch
        self._folder = folder
        self._place = place
        found = _latest(folder)
        self.records: list[StepRecord] = [] if found is None else list(read_record(found).steps)
        model = stretch.from_model
        if found is not None:
            model = model.model_copy(update={"adapter": str(found), "moments": str(found)})
        self._tokenizer = load_tokenizer(stretch.model)
        self._pool = TokenStore.open(stretch.pool)
        self._order = Order(
            stretch.read_samples(), self._pool.lengths_N, stretch.training, stretch.seed, stretch.first_step
        )
        sharding = None
        if stretch.training.zero == 3:
            from clusterucb.checkpoint.sharded import sharding as of_device

            sharding = of_device(place.device)
        loaded = load_model(model, place.device, stretch.seed, "lora", sharding)
        assert isinstance(loaded.model, PeftModel)
        self._model = loaded.model
        _check_plain(loaded.model)
        moments = None if model.moments is None else _moments_of(Path(model.moments), loaded.model)
        if stretch.training.packing and stretch.training.zero < 3:
            check_packing(loaded.model, output_embedding(loaded.model), place.device)
        self._engine: Engine = _engine(stretch, loaded.model, moments, place)

    def step(self) -> StepRecord:
        """Make one optimizer step."""
        done, stretch = len(self.records), self._stretch
        count = stretch.first_step + done
        passes = self._order.passes_at(done)
        samples_B = np.concatenate(passes)
        labels = int(self._pool.label_counts_N[samples_B].sum())
        total = 0.0
        for turn, mine in enumerate(dealt(passes, self._place.rank, self._place.ranks)):
            batch = self._laid_out(passes[0] if mine is None else mine)
            torch.manual_seed(int(generator("dropout", stretch.seed, count, turn, self._place.rank).integers(2**62)))
            total += self._engine.backward(batch, 0.0 if mine is None else 1.0 / labels)
        loss = self._sum(total) / labels
        rate = learning_rate(count, stretch.schedule_steps, stretch.training)
        norm = self._engine.step(rate)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ModelError(
                f"the loss of training step {count} is {loss} and its gradient's norm {norm}: "
                f"lower training.learning_rate ({stretch.training.learning_rate:g}), or look at the rows of that step"
            )
        record = StepRecord(
            step=count + 1,
            learning_rate=rate,
            loss=loss,
            gradient_norm=norm,
            samples=len(samples_B),
            tokens=int(self._pool.lengths_N[samples_B].sum()),
            labels=labels,
            passes=len(passes),
        )
        self.records.append(record)
        return record

    def save(self, folder: Path) -> None:
        """Have the checkpoint of now on disk; the one that a training was to go on from is then in the way."""
        trained = self._engine.trained()
        if self._place.rank == 0:
            write_checkpoint(folder, self._model, trained, self._tokenizer, self._record())
            if folder.parent == self._folder / "state":
                for old in folder.parent.glob("step-*"):
                    if old != folder:
                        shutil.rmtree(old)
        if self._place.ranks > 1:
            distributed.barrier()

    def agree(self, stop: bool) -> bool:
        """Return what rank 0 says."""
        return bool(self._sum(float(stop and self._place.rank == 0)))

    def _record(self) -> CheckpointRecord:
        stretch, done = self._stretch, len(self.records)
        since = max((step for step in stretch.keep if step < done), default=0)
        rates = [record.learning_rate for record in self.records[since:]]
        return CheckpointRecord(
            base=stretch.model.base,
            step=stretch.first_step + done,
            schedule_steps=stretch.schedule_steps,
            learning_rate=self.records[-1].learning_rate if done else 0.0,
            mean_learning_rate=sum(rates) / len(rates) if rates else 0.0,
            samples=sum(record.samples for record in self.records),
            training=stretch.training,
            seed=stretch.seed,
            ranks=self._place.ranks,
            versions=versions(),
            steps=tuple(self.records),
        )

    def _laid_out(self, samples_B: IntArray) -> Pass:
        return pass_of(self._pool.batch(samples_B), self._stretch.training.packing, self._place.device)

    def _sum(self, value: float) -> float:
        if self._place.ranks == 1:
            return value
        whole = torch.tensor([value], dtype=torch.float64, device=self._place.device)
        distributed.all_reduce(whole)
        return float(whole)


def _engine(stretch: Stretch, model: PeftModel, moments: Moments | None, place: Place) -> Engine:
    if stretch.training.zero == 0:
        return TorchEngine(model, stretch.training, moments, place.ranks)
    from clusterucb.training.zero import ZeroEngine

    return ZeroEngine(model, stretch.training, moments, place.ranks, place.device)


def _moments_of(path: Path, model: PeftModel) -> Moments:
    moments = load_moments(path, model)
    check_moments(moments, {name: weight.shape for name, weight in trainable(model).items()})
    return moments


def _check_plain(model: PeftModel) -> None:
    """Raise ModelError where an adapter is more than LoRA matrices on linear layers: the rest would be lost."""
    find_layers(model, "lora")
    settings = model.peft_config["default"]
    assert isinstance(settings, LoraConfig)
    if settings.modules_to_save or settings.bias != "none" or settings.trainable_token_indices:
        raise ModelError(
            f"the adapter trains more than LoRA matrices (modules_to_save {settings.modules_to_save}, bias "
            f"{settings.bias!r}, trainable_token_indices {settings.trainable_token_indices}), and only these are "
            f"trained here: leave model.adapter out for a fresh one, or give a plain LoRA adapter"
        )


def _latest(folder: Path) -> Path | None:
    found = list((folder / "state").glob("step-*")) + list(folder.glob("checkpoint-*"))
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
