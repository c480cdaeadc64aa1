"""The same study in this process, without Ray: for tests, notebooks and debugging."""

from collections.abc import Sequence

from clusterucb.config import RunConfig
from clusterucb.run.events import Emit
from clusterucb.run.in_process import run_in_process
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.study.preparation import prepare_study
from clusterucb.study.result import StudySummary
from clusterucb.study.study import Study
from clusterucb.study.trial import Trial, try_out
from clusterucb.training.trainer import ALONE


class InProcess:
    """One selection or trial after another, here."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def select(self, config: RunConfig, folder: RunFolder) -> None:
        """Select."""
        if not folder.finished:
            prepare(config, folder, lambda what, rows: None)
            run_in_process(config, folder, self._emit)

    def try_all(self, trials: Sequence[Trial], config: RunConfig) -> None:
        """Try one after another."""
        for trial in trials:
            try_out(trial, ALONE, self._emit)


def study_in_process(config: RunConfig, folder: RunFolder, source: RunFolder | None, emit: Emit) -> StudySummary:
    """Run a study to its end."""
    prepared = prepare_study(config, folder, source, lambda what, rows: None)
    return Study(config, folder, prepared.held_out, InProcess(emit)).run()
