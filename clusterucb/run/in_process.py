"""The same selection in this process, without Ray: for tests, notebooks and debugging."""

import torch

from clusterucb.config import RunConfig
from clusterucb.run.events import Emit
from clusterucb.run.feature_run import FeatureRun
from clusterucb.run.pipeline import SelectionRun
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.worker import Worker


def run_in_process(
    config: RunConfig,
    folder: RunFolder,
    emit: Emit,
    device: torch.device | None = None,
    run_type: type[SelectionRun] | type[FeatureRun] = SelectionRun,
) -> None:
    """Run a prepared folder to its end with one worker in this process."""
    worker = Worker(config, device or torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    folder.take_over()
    run = run_type(config, folder, emit)
    run.workers = (worker.info(),)
    try:
        for stage in run.stages():
            while (job := stage.ask()) is not None:
                stage.tell(job, worker.work(job.task, lambda: run.bank))
            assert stage.done, f"stage {stage.name} hands out nothing and is not done"
            run.workers = (worker.info(),)
    finally:
        run.close()
