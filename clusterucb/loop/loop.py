"""The stages of a loop, one after the other, each a run folder of its own inside the loop's.

Invariants: a stage that is on disk is not repeated, one that is half there is gone on with, and what a stage computes
follows from the loop's configuration and the stages before it; so a loop that is killed anywhere and run again ends as
one that was not. How selections and trainings are computed is not decided here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clusterucb.config import RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.loop.adoption import adopt_tokens, selected_samples
from clusterucb.loop.ending import copy_adapter, merge_adapter
from clusterucb.loop.periods import LoopFolders, period_config, scoring_config
from clusterucb.loop.static import combined, subtasks_of, write_static
from clusterucb.loop.summary import LoopSummary, PeriodSummary, period_summary
from clusterucb.run.gating import read_gates
from clusterucb.run.prepared import open_prepared
from clusterucb.run.run_folder import RunFolder
from clusterucb.training.checkpoint import read_record
from clusterucb.training.preparation import write_stretch
from clusterucb.training.stretch import Stretch, steps_an_epoch
from clusterucb.training.summary import TrainingSummary, read_training_summary


class Means(Protocol):
    """What computes the stages; `name` is how a stage is called to the user."""

    def warm_up(self, config: RunConfig, folder: RunFolder, name: str) -> TrainingSummary:
        """Prepare and train a warm-up, or go on with it; a finished folder answers at once."""
        ...

    def select(self, config: RunConfig, folder: RunFolder, name: str) -> None:
        """Run a selection to its end; a finished folder answers at once."""
        ...

    def train(self, stretch: Stretch, config: RunConfig, folder: RunFolder, name: str) -> TrainingSummary:
        """Train the stretch that stands in a folder."""
        ...


@dataclass(frozen=True, slots=True)
class _Point:
    """Where training stands: the checkpoint (None: the model as it was brought) and the steps of the schedule made."""

    checkpoint: Path | None
    step: int

    @classmethod
    def at(cls, checkpoint: Path) -> "_Point":
        return cls(checkpoint, read_record(checkpoint).step)


class Loop:
    """One loop in a claimed folder; `run` does what is not done yet."""

    def __init__(self, config: RunConfig, folder: RunFolder, means: Means) -> None:
        self._config = config
        self._folder = folder
        self._folders = LoopFolders(folder.path)
        self._means = means
        self._tokens: Path | None = None
        self._warmup_steps = 0

    def run(self) -> LoopSummary:
        """Go through the stages and return the summary."""
        config = self._config
        warm = None if config.model.adapter is not None else self._warm_up()
        weights: tuple[float, ...] = ()
        periods: tuple[PeriodSummary, ...] = ()
        if config.loop.mode == "static":
            assert warm is not None, "check_loop sees to it"
            weights, last = self._static(warm)
        else:
            periods, last = self._dynamic(None if warm is None else self._folders.warmup / "checkpoint")
        copy_adapter(last, self._folders.adapter)
        if config.loop.merge:
            merge_adapter(config.model, self._folders.adapter, self._folders.merged)
        return LoopSummary(
            run=self._folder.name,
            mode=config.loop.mode,
            warmup=warm,
            weights=weights,
            periods=periods,
            merged=config.loop.merge,
        )

    def _warm_up(self) -> TrainingSummary:
        folder = RunFolder(self._folders.warmup)
        summary = self._means.warm_up(self._config, folder, "warm-up")
        self._tokens = folder.state
        self._warmup_steps = summary.steps
        return summary

    def _dynamic(self, checkpoint: Path | None) -> tuple[tuple[PeriodSummary, ...], Path]:
        """Return the periods, and the checkpoint of the last."""
        point = self._beginning(checkpoint)
        periods: list[PeriodSummary] = []
        last: RunFolder | None = None
        for period in range(1, self._config.loop.periods + 1):
            name = f"period {period}"
            asked = period_config(self._config, period, checkpoint, self._folders)
            selection = self._select(asked, self._folders.selection(period), name)
            training = RunFolder(self._folders.training(period))
            checkpoint = self._train(training, selection.selection_file, point, name)
            point = _Point.at(checkpoint)
            periods.append(period_summary(period, selection, training, last))
            last = selection
        assert checkpoint is not None, "there is a period at least"
        return tuple(periods), checkpoint

    def _static(self, warm: TrainingSummary) -> tuple[tuple[float, ...], Path]:
        """Return the weights of the warm-up's checkpoints, and the checkpoint of the training on the selection."""
        checkpoints = [self._folders.warmup / name for name in warm.checkpoints]
        scorings = [
            self._select(scoring_config(self._config, checkpoint), self._folders.scoring(i), f"checkpoint {i}")
            for i, checkpoint in enumerate(checkpoints, 1)
        ]
        scores = combined(scorings, [read_record(checkpoint).mean_learning_rate for checkpoint in checkpoints])
        chosen = RunFolder(self._folders.root / "selection")
        gated = read_gates(scorings[-1])
        write_static(self._config, scores, self._pool(), subtasks_of(scorings[-1]), chosen, gated)
        training = RunFolder(self._folders.training(1))
        ended = self._train(training, chosen.selection_file, self._beginning(checkpoints[-1]), "final")
        return tuple(float(weight) for weight in scores.weights), ended

    def _beginning(self, warmed_up: Path | None) -> _Point:
        if self._config.loop.keep_warmup and warmed_up is not None:
            return _Point.at(warmed_up)
        return _Point(None, 0)

    def _select(self, config: RunConfig, path: Path, name: str) -> RunFolder:
        folder = RunFolder(path)
        if not folder.finished:
            folder.start(config)
            if self._tokens is not None:
                adopt_tokens(self._tokens, folder)
        self._means.select(config, folder, name)
        self._tokens = folder.state
        return folder

    def _train(self, folder: RunFolder, selection: Path, start: _Point, name: str) -> Path:
        """Train on a selection and return the checkpoint.

        The schedule spans all periods, as if each had as many samples as were asked for.
        """
        config = self._config
        if not folder.finished:
            folder.start(config, "warmup")
            self._means.train(self._stretch(folder, selection, start), config, folder, name)
        assert read_training_summary(folder.summary_file).steps
        return folder.path / "checkpoint"

    def _stretch(self, folder: RunFolder, selection: Path, start: _Point) -> Stretch:
        config, pool = self._config, self._pool()
        samples = selected_samples(selection, pool)
        batch, epochs = config.training.batch_size, config.loop.epochs
        nominal = steps_an_epoch(config.selection.size(int(pool.usable_N.sum())), batch) * epochs
        periods = config.loop.periods if config.loop.mode == "dynamic" else 1
        return write_stretch(
            folder,
            config,
            config.model,
            pool,
            samples,
            steps=steps_an_epoch(len(samples), batch) * epochs,
            schedule_steps=nominal * periods + (self._warmup_steps if config.loop.keep_warmup else 0),
            first_step=start.step,
            start=start.checkpoint,
        )

    def _pool(self) -> TokenStore:
        assert self._tokens is not None, "a selection or a warm-up comes first"
        return open_prepared(RunFolder(self._tokens.parent))[0]
