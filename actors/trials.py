"""Evaluations and trials of a study as Ray tasks: one device each, everything they leave being on disk.

Invariants: a task that is started again, by Ray or by hand, goes on from its folder; a user's mistake and a request to
stop come back as they are, and only the death of a process is tried again.
"""

import time

import ray
import torch

from clusterucb.errors import ClusterUCBError, Stopped
from clusterucb.evaluation.evaluate import evaluate
from clusterucb.run.events import Cancelled, EventLog, Failed, Started
from clusterucb.run.run_folder import RunFolder
from clusterucb.study.trial import Trial, try_out
from clusterucb.training.trainer import Place

_ATTEMPTS = 3


@ray.remote(max_retries=_ATTEMPTS)
def try_on_device(trial: str, threads: int) -> None:
    """Do what a trial says, in its folder."""
    asked = Trial.model_validate_json(trial)
    device, folder = _device(threads), RunFolder(asked.folder)
    with _Log(folder) as log:
        try_out(asked, Place(0, 1, device), log, lambda: folder.cancel_requested)


@ray.remote(max_retries=_ATTEMPTS)
def evaluate_on_device(location: str, threads: int) -> None:
    """Judge the model of a prepared folder."""
    device, folder = _device(threads), RunFolder.open(location)
    with _Log(folder) as log:
        evaluate(folder.read_config(), folder, device, log, lambda: folder.cancel_requested)


class _Log(EventLog):
    """A folder's events while a task writes them: how it began and how it ended."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__(folder.events_file, time.time)
        self._folder = folder

    def __enter__(self) -> "_Log":
        self(Started(run=self._folder.name, resumed=self._size > 0, workers=1))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Stopped):
            self(Cancelled())
        elif isinstance(error, ClusterUCBError):
            self(Failed(error=str(error)))
        self.close()


def _device(threads: int) -> torch.device:
    torch.set_num_threads(threads)
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")
