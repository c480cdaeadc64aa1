"""The same loop in this process, without Ray: for tests, notebooks and debugging."""

from clusterucb.config import RunConfig
from clusterucb.loop.loop import Loop
from clusterucb.loop.summary import LoopSummary
from clusterucb.run.events import Emit
from clusterucb.run.in_process import run_in_process
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.training.preparation import prepare_warmup
from clusterucb.training.stretch import Stretch
from clusterucb.training.summary import TrainingSummary, summarise_training
from clusterucb.training.trainer import ALONE, train


class InProcess:
    """One worker and one rank, here, in turn."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def warm_up(self, config: RunConfig, folder: RunFolder, name: str) -> TrainingSummary:
        """Prepare and train."""
        return self.train(prepare_warmup(config, folder, lambda what, rows: None).stretch, config, folder, name)

    def select(self, config: RunConfig, folder: RunFolder, name: str) -> None:
        """Select."""
        if not folder.finished:
            prepare(config, folder, lambda what, rows: None)
            run_in_process(config, folder, self._emit)

    def train(self, stretch: Stretch, config: RunConfig, folder: RunFolder, name: str) -> TrainingSummary:
        """Train."""
        train(stretch, folder.path, ALONE, self._emit)
        return summarise_training(stretch, folder)


def loop_in_process(config: RunConfig, folder: RunFolder, emit: Emit) -> LoopSummary:
    """Run a loop to its end."""
    folder.start(config, "run")
    return Loop(config, folder, InProcess(emit)).run()
