"""What happens to workers and jobs, as events of the run."""

from actors.lanes import LossKind
from actors.pool import living_nodes
from actors.resources import WorkerSize, describe
from clusterucb.run.events import Emit, Suspected, Waiting, WorkerLost, WorkerReady, WorkerRetired
from clusterucb.run.tasks import Job, samples_of
from clusterucb.types import WorkerInfo


class Reporter:
    """Turns the notices of dispatcher and pool into events."""

    def __init__(self, emit: Emit, size: WorkerSize) -> None:
        self._emit = emit
        self._size = size
        self._explained = False

    def ready(self, index: int, info: WorkerInfo) -> None:
        """A worker has loaded its model; what its loading had to say is said once."""
        self._emit(WorkerReady(worker=index, device=info.device, notes=() if self._explained else info.notes))
        self._explained = True

    def lost(self, index: int, reason: str, kind: LossKind) -> None:
        """A worker is gone."""
        self._emit(WorkerLost(worker=index, reason=reason, kind=kind))

    def retired(self, index: int, deaths: int) -> None:
        """A worker is given up."""
        self._emit(WorkerRetired(worker=index, deaths=deaths))

    def suspected(self, job: Job) -> None:
        """A micro-batch is examined."""
        self._emit(Suspected(stage=job.stage, job=job.index, samples=len(samples_of(job.task))))

    def idle(self) -> None:
        """Nobody works."""
        self._emit(
            Waiting(
                text=f"no worker is ready. Workers of {self._size} each are placed as soon as there is room, and load "
                f"the model then; the cluster has {describe(living_nodes())}"
            )
        )

    def load(self, jobs: int, workers: int, busy: int) -> None:
        """How much is out."""
