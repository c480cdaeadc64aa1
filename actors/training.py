"""Training under Ray Train: the ranks of a `TorchTrainer`, each of which runs the same `train` as one process does.

Invariants: the ranks meet at a store that listens on the node's address in the cluster alone (loopback on one machine);
what they leave is on disk, so that a lost rank, or driver, costs the steps since the last checkpoint; a user's mistake
is written down once and ends the training, however often Ray Train would try again.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from torch import distributed

from actors.resources import WorkerSize
from clusterucb.checkpoint.ranks import Rank, join_gang, open_store
from clusterucb.errors import ClusterUCBError, Stopped
from clusterucb.run.disk import write_atomically
from clusterucb.run.events import Cancelled, Event, EventLog, Failed, Started
from clusterucb.run.run_folder import RunFolder
from clusterucb.training.stretch import Stretch

_ATTEMPTS = 3
_stores: list[object] = []  # whoever opens a store keeps it


class Ranks(TorchConfig):
    """The way in which ranks meet here."""

    @property
    def backend_cls(self) -> "type[_Meeting]":
        """What Ray Train calls."""
        return _Meeting


class _Meeting(Backend):
    """Let rank 0 open the store and all of them join."""

    def on_start(self, worker_group, backend_config) -> None:
        host, port = worker_group.execute_single(0, _open)
        worker_group.execute(_join, host, port)

    def on_shutdown(self, worker_group, backend_config) -> None:
        worker_group.execute(_leave)


def _open() -> tuple[str, int]:
    host = ray.util.get_node_ip_address()
    store = open_store(host)
    _stores.append(store)
    return host, store.port


def _join(host: str, port: int) -> None:
    context = ray.train.get_context()
    join_gang(Rank(context.get_world_rank(), context.get_world_size(), host, port), _device())


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _device() -> torch.device:
    device = get_device()
    return device if isinstance(device, torch.device) and device.type == "cuda" else torch.device("cpu")


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A training folder, how many ranks of which size, and the threads of each."""

    folder: str
    ranks: int
    size: WorkerSize
    threads: int


def fit(plan: TrainingPlan) -> None:
    """Train the stretch in a folder to its end, or until somebody asks to stop; blocks.

    Raises what ended it: a user's mistake as it was, Stopped, else what Ray Train says.
    """
    folder = RunFolder.open(plan.folder)
    _mistake(folder).unlink(missing_ok=True)
    resources = {"CPU": plan.size.num_cpus, "GPU": plan.size.num_gpus, "memory": float(plan.size.memory)}
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={"folder": plan.folder, "threads": plan.threads},
        torch_config=Ranks(),
        scaling_config=ScalingConfig(
            num_workers=plan.ranks,
            use_gpu=plan.size.num_gpus > 0,
            resources_per_worker={name: amount for name, amount in resources.items() if amount} or {"CPU": 0.001},
        ),
        run_config=RunConfig(
            name="attempts", storage_path=str(folder.state / "ray"), failure_config=FailureConfig(_ATTEMPTS)
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        if not _mistake(folder).exists():
            words = " ".join(str(error).split())
            raise ClusterUCBError(
                f"the training died {_ATTEMPTS + 1} times ({words[-600:]}): see the Ray logs, then run again to go on"
            ) from error
    if _mistake(folder).exists():
        raise ClusterUCBError(_mistake(folder).read_text(encoding="utf-8"))
    if not (folder.path / "checkpoint").exists():
        raise Stopped(f"stopped; the steps made are kept: `clusterucb resume {folder.location}` goes on")


def _train_rank(settings: Mapping[str, object]) -> None:
    """Do one rank's part, in its process."""
    from clusterucb.training.trainer import Place, train  # Ray Train's controller imports this module too

    folder = RunFolder.open(str(settings["folder"]))
    if _mistake(folder).exists():
        return
    context, threads = ray.train.get_context(), settings["threads"]
    assert isinstance(threads, int)
    torch.set_num_threads(threads)
    place = Place(context.get_world_rank(), context.get_world_size(), _device())
    stretch = Stretch.model_validate_json((folder.state / "stretch.json").read_text(encoding="utf-8"))
    log = EventLog(folder.events_file, time.time) if place.rank == 0 else None

    def emit(event: Event) -> None:
        if log is not None:
            log(event)

    emit(Started(run=folder.name, resumed=any(folder.state.glob("step-*")), workers=place.ranks))
    try:
        train(stretch, folder.path, place, emit, lambda: folder.cancel_requested)
    except Stopped:
        emit(Cancelled())
    except ClusterUCBError as error:
        emit(Failed(error=str(error)))
        write_atomically(_mistake(folder), str(error))
        raise
    finally:
        if log is not None:
            log.close()


def _mistake(folder: RunFolder) -> Path:
    return folder.state / "mistake"
