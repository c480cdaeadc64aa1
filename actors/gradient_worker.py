"""A worker process: one model on one device, synchronous methods only.

The constructor takes small arguments, so that Ray can start the actor at any time; the model loads with the first
call. The plain class is what tests use; `GradientActor` is what a cluster runs. Invariant: the libraries that bring
models are imported where one is loaded, for coordinators and keepers import this module too.
"""

from functools import cached_property
from typing import TYPE_CHECKING

import ray
import torch
from ray.actor import ActorClass

from clusterucb.config import Features, RunConfig
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.tasks import Answer, Task
from clusterucb.types import WorkerInfo

if TYPE_CHECKING:
    from clusterucb.run.worker import Worker


class GradientWorker:
    """Answers tasks; brings the target bank from the object store once and keeps it."""

    def __init__(self, config_json: str, threads: int) -> None:
        self._config = RunConfig.model_validate_json(config_json)
        self._threads = threads

    @cached_property
    def _worker(self) -> "Worker":
        from clusterucb.run.worker import Worker

        torch.set_num_threads(self._threads)
        return Worker(self._config, assigned_device())

    @ray.method(concurrency_group="watch")
    def ping(self) -> None:
        """Answer at once, while a task is computed too: the process is alive."""

    @ray.method(concurrency_group="watch")
    def node(self) -> str:
        """Return the id of the node that this actor was placed on."""
        return ray.get_runtime_context().get_node_id()

    @ray.method
    def load(self) -> WorkerInfo:
        """Load the model and say what it runs on."""
        return self._worker.info()

    @ray.method
    def take_on(self, features: Features) -> None:
        """Work for another run of the same checkpoint from now on."""
        self._config = self._config.model_copy(update={"features": features})
        if "_worker" in self.__dict__:
            self._worker.take_on(features)

    @ray.method
    def info(self) -> WorkerInfo:
        """Say what was used so far."""
        return self._worker.info()

    @ray.method
    def work(self, task: Task, bank: list["ray.ObjectRef[TargetBank]"]) -> Answer:
        """Answer a task; `bank` holds the reference of the target bank, once there is one."""
        return self._worker.work(task, lambda: ray.get(bank[0]))


def assigned_device() -> torch.device:
    """Return the device that Ray gave this actor; a process that was given no GPU sees them all the same."""
    assigned = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    return torch.device("cuda", 0) if assigned else torch.device("cpu")


# The stubs do not know this argument: one thread answers `ping` while another computes.
GradientActor: ActorClass[GradientWorker] = ray.remote(concurrency_groups={"watch": 1})(GradientWorker)  # pyright: ignore[reportCallIssue]
