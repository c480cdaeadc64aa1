"""A study in one folder: what each arm trains on, the trials, what they show.

Invariants: every arm makes the same optimizer steps, at the same rates, from the same start; seed for seed the order
and the fresh adapter are drawn alike. A trial that is on disk is not repeated. How trials are computed is not decided
here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from clusterucb.config import Audit, Clusters, Exhaustive, Model, RunConfig, Search
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import ConfigError, RunFolderError
from clusterucb.evaluation.held_out import check_apart
from clusterucb.run.disk import write_atomically
from clusterucb.run.prepared import open_prepared
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import read_summary
from clusterucb.study.arms import brought_subset, matched_subset, random_subset
from clusterucb.study.result import StudySummary, arm_results, material_of, write_csv
from clusterucb.study.trial import Trial, read_curve
from clusterucb.training.preparation import write_stretch
from clusterucb.training.stretch import Stretch, evenly, steps_an_epoch
from clusterucb.types import IntArray

SELECTED, EXHAUSTIVE = "selected", "exhaustive"


class Bench(Protocol):
    """What computes."""

    def select(self, config: RunConfig, folder: RunFolder) -> None:
        """Run a selection to its end; a finished folder answers at once."""
        ...

    def try_all(self, trials: Sequence[Trial], config: RunConfig) -> None:
        """Have every trial's curve written; those that have one are left alone."""
        ...


class Study:
    """One study in a prepared folder; `run` does what is not done yet."""

    def __init__(self, config: RunConfig, folder: RunFolder, held_out: TokenStore, bench: Bench) -> None:
        self._config = config
        self._folder = folder
        self._held_out = held_out
        self._bench = bench
        self._pool, self._target = open_prepared(folder)
        self._files = {name: Path(path) for name, path in config.study.files.items()}
        self._seeds = tuple(range(config.seed, config.seed + config.study.seeds))

    def run(self) -> StudySummary:
        """Go through all trials and return the summary."""
        subsets = self._subsets()
        check_apart(self._held_out, self._target, np.flatnonzero(self._target.usable_N), "target examples")
        for arm, of_seeds in subsets.items():
            check_apart(self._held_out, self._pool, np.unique(np.concatenate(of_seeds)), f"trained on by arm {arm}")
        steps = self._steps(subsets)
        trials = {
            arm: [self._trial(arm, seed, each, steps) for seed, each in zip(self._seeds, of_seeds, strict=True)]
            for arm, of_seeds in subsets.items()
        }
        untrained = self._untrained(next(iter(trials.values()))[0])
        by_seed = [trial for each in zip(*trials.values(), strict=True) for trial in each]
        self._bench.try_all((untrained, *by_seed), self._config)
        curves = {arm: [read_curve(trial) for trial in each] for arm, each in trials.items()}
        before = read_curve(untrained)
        selected = subsets[SELECTED][0] if SELECTED in subsets else None
        materials = {arm: material_of(self._pool, of_seeds, selected) for arm, of_seeds in subsets.items()}
        summary = StudySummary(
            run=self._folder.name,
            held_out=before.points[0].measure.examples,
            steps=steps,
            batch_size=self._config.training.batch_size,
            learning_rate=self._config.training.learning_rate,
            untrained=before.points[0].measure,
            arms=arm_results(curves, materials, before, self._config.seed),
        )
        write_csv(self._folder.path / "study.csv", curves, before)
        write_atomically(self._folder.summary_file, summary.model_dump_json(indent=1) + "\n")
        return summary

    def _subsets(self) -> dict[str, list[IntArray]]:
        """Return what each arm trains on, for each seed."""
        study, count = self._config.study, len(self._seeds)
        found: dict[str, list[IntArray]] = {}
        brought = {name: brought_subset(self._pool, path, name) for name, path in self._files.items()}
        selected = brought.get(SELECTED)
        size = self._size(brought)
        for arm in dict.fromkeys((*study.arms, *brought)):
            match arm:
                case "random":
                    found[arm] = [random_subset(self._pool, size, seed) for seed in self._seeds]
                case "matched":
                    if selected is None:
                        raise ConfigError(
                            "study.arms has matched, which needs a selected subset to match: give a finished run, "
                            "study.files.selected, or leave it out"
                        )
                    found[arm] = [matched_subset(self._pool, selected, seed) for seed in self._seeds]
                case "whole":
                    found[arm] = [np.flatnonzero(self._pool.usable_N)] * count
                case "exhaustive" if arm not in brought:
                    found[arm] = [self._exhaustive()] * count
                case "selected" if arm not in brought:
                    raise ConfigError(
                        "study.arms has selected, but there is no selection: give a finished run in place of a "
                        "configuration, a file with --arm selected=FILE, or leave it out"
                    )
                case _:
                    found[arm] = [brought[arm]] * count
        return found

    def _exhaustive(self) -> IntArray:
        """Return what scoring the whole pool selects."""
        if self._config.study.exhaustive is not None:
            folder = RunFolder.open(self._config.study.exhaustive)
            if not folder.finished:
                raise RunFolderError(f"study.exhaustive {folder.location} is no finished run: finish it first")
            folder.take_over()
        else:
            folder = RunFolder(self._folder.path / "exhaustive")
            self._bench.select(exhaustive_config(self._config), folder)
        found, usable = read_summary(folder), self._usable
        scored = found.scored
        if scored + sum(found.excluded.values()) < usable:
            raise RunFolderError(
                f"study.exhaustive {folder.location} scored {scored} of {usable} samples: give a run that scored the "
                f"whole pool (search.allocator.kind exhaustive)"
            )
        return brought_subset(self._pool, folder.selection_file, EXHAUSTIVE)

    def _size(self, brought: dict[str, IntArray]) -> int:
        """Return how many samples are drawn: as many as are selected, or as a file brings."""
        if SELECTED in brought:
            return len(brought[SELECTED])
        return len(next(iter(brought.values()))) if brought else self._config.selection.size(self._usable)

    def _steps(self, subsets: dict[str, list[IntArray]]) -> int:
        """Return the optimizer steps of every arm: what passes over the selected subset take."""
        parts = [each for arm, each in subsets.items() if arm != "whole"]
        first = subsets.get(SELECTED) or (parts[0] if parts else None)
        count = self._config.selection.size(self._usable) if first is None else len(first[0])
        return steps_an_epoch(count, self._config.training.batch_size) * self._config.study.epochs

    @property
    def _usable(self) -> int:
        return int(self._pool.usable_N.sum())

    def _trial(self, arm: str, seed: int, samples: IntArray, steps: int) -> Trial:
        config = self._config.model_copy(update={"seed": seed})
        folder = RunFolder(self._folder.path / "arms" / arm / f"seed-{seed}")
        folder.start(config, "warmup")
        keep = evenly(steps, config.study.points)
        stretch = write_stretch(
            folder, config, start_of(config), self._pool, samples, steps=steps, schedule_steps=steps, keep=keep
        )
        return self._judged_by(arm, seed, folder.path, stretch, stretch)

    def _untrained(self, first: Trial) -> Trial:
        folder = RunFolder(self._folder.path / "arms" / "none")
        folder.start(self._config, "warmup")
        return self._judged_by("none", first.seed, folder.path, None, first.start)

    def _judged_by(self, arm: str, seed: int, folder: Path, stretch: Stretch | None, start: Stretch) -> Trial:
        return Trial(
            arm=arm,
            seed=seed,
            folder=folder,
            held_out=self._held_out.folder,
            batch_tokens=self._config.evaluation.batch_tokens,
            stretch=stretch,
            start=start,
        )


def start_of(config: RunConfig) -> Model:
    """Return the model that every trial begins with."""
    if config.study.start == "checkpoint":
        return config.model
    return config.model.model_copy(update={"adapter": None, "moments": None})


def exhaustive_config(config: RunConfig) -> RunConfig:
    """Return the selection that scores the whole pool."""
    changed = config.model_copy(
        update={"search": Search(allocator=Exhaustive()), "audit": Audit(samples=0), "clusters": Clusters(k=1)}
    )
    return RunConfig.model_validate(changed.model_dump())
