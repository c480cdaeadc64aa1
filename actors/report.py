"""What a run reports: every event to its file, to the metrics and to the log; notices of workers and jobs as events."""

import threading

from actors.lanes import LossKind
from actors.logs import log_event
from actors.metrics import RunMetrics
from actors.pool import living_nodes
from actors.resources import WorkerSize, describe
from clusterucb.run.events import Emit, Event, Suspected, Waiting, WorkerLost, WorkerReady, WorkerRetired
from clusterucb.run.tasks import Job, samples_of
from clusterucb.types import WorkerInfo


class Report:
    """Hands each event on, one at a time, from whichever thread it comes."""

    def __init__(self, run: str, write: Emit) -> None:
        self.metrics = RunMetrics(run)
        self._write = write
        self._turn = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Record one event."""
        with self._turn:
            self._write(event)
            self.metrics(event)
            log_event(event)


class Notices:
    """Turns the notices of dispatcher and pool into events."""

    def __init__(self, report: Report, size: WorkerSize) -> None:
        self._report = report
        self._size = size
        self._explained = False

    def ready(self, index: int, info: WorkerInfo) -> None:
        """A worker has loaded its model; what its loading had to say is said once."""
        self._report(WorkerReady(worker=index, device=info.device, notes=() if self._explained else info.notes))
        self._explained = True

    def lost(self, index: int, reason: str, kind: LossKind) -> None:
        """A worker is gone."""
        self._report(WorkerLost(worker=index, reason=reason, kind=kind))

    def retired(self, index: int, deaths: int) -> None:
        """A worker is given up."""
        self._report(WorkerRetired(worker=index, deaths=deaths))

    def suspected(self, job: Job) -> None:
        """A micro-batch is examined."""
        self._report(Suspected(stage=job.stage, job=job.index, samples=len(samples_of(job.task))))

    def idle(self) -> None:
        """Nobody works."""
        self._report(
            Waiting(
                text=f"no worker is ready. Workers of {self._size} each are placed as soon as there is room, and load "
                f"the model then; the cluster has {describe(living_nodes())}"
            )
        )

    def load(self, jobs: int, workers: int, busy: int) -> None:
        """How much is out."""
        self._report.metrics.in_flight(jobs, workers, busy)
