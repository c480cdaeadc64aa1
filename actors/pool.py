"""The gradient workers of a run: started together, checked, replaced by Ray when they die, stopped with the run."""

import asyncio
from collections.abc import Callable
from typing import cast

import ray
from ray.actor import ActorHandle, ActorProxy
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from actors.gradient_worker import GradientActor, GradientWorker
from actors.lanes import WorkerGone, WorkerLost
from actors.resources import WorkerPlan
from clusterucb.config import RunConfig
from clusterucb.errors import ClusterUCBError, ResourceError
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.tasks import Answer, Job
from clusterucb.types import WorkerInfo

_RESTARTS = 3


class RemoteWorker:
    """One actor as the dispatcher sees it: Ray's errors become WorkerLost or WorkerGone."""

    def __init__(self, index: int, actor: "ActorProxy[GradientWorker]") -> None:
        self.index = index
        self.actor = actor
        self.bank: list[ray.ObjectRef[TargetBank]] = []

    async def answer(self, job: Job) -> Answer:
        """Do one job on the actor."""
        try:
            return await self.actor.work.remote(job.task, self.bank)
        except ActorDiedError as error:
            raise WorkerGone(_reason(error)) from None
        except RayActorError as error:
            raise WorkerLost(_reason(error)) from None
        except RayTaskError as error:
            if isinstance(error.cause, ClusterUCBError):
                raise error.cause from None
            raise


class WorkerPool:
    """Starts workers and waits until their models are loaded."""

    def __init__(self, config: RunConfig, plan: WorkerPlan) -> None:
        options = GradientActor.options(
            num_cpus=plan.num_cpus, num_gpus=plan.num_gpus, memory=plan.memory or None, max_restarts=_RESTARTS
        )
        config_json, threads = config.model_dump_json(), max(1, int(plan.num_cpus))
        self._timeout_s = config.workers.ready_timeout_s
        self.workers = [RemoteWorker(i, options.remote(config_json, threads)) for i in range(plan.count)]

    async def load(self, on_ready: Callable[[int, WorkerInfo], None]) -> None:
        """Load every model; raise what the first failing worker says."""

        async def one(worker: RemoteWorker) -> None:
            try:
                on_ready(worker.index, await worker.actor.load.remote())
            except RayTaskError as error:
                if isinstance(error.cause, ClusterUCBError):
                    raise error.cause from None
                raise
            except RayActorError as error:
                raise ResourceError(f"worker {worker.index} died while loading the model: {_reason(error)}") from None

        try:
            async with asyncio.timeout(self._timeout_s), asyncio.TaskGroup() as group:
                for worker in self.workers:
                    group.create_task(one(worker))
        except TimeoutError:
            raise ResourceError(
                f"workers were not ready within {self._timeout_s:g} s: other work holds the cluster's resources, or "
                f"the model loads slowly; raise workers.ready_timeout_s or wait and run again"
            ) from None
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def share_bank(self, bank: TargetBank) -> None:
        """Put the target bank into the object store once, for all workers."""
        reference = ray.put(bank)
        for worker in self.workers:
            worker.bank = [reference]

    async def infos(self) -> list[WorkerInfo]:
        """Return what the living workers used."""
        found = await asyncio.gather(*(worker.actor.info.remote() for worker in self.workers), return_exceptions=True)
        return [info for info in found if isinstance(info, WorkerInfo)]

    def stop(self) -> None:
        """End the workers that this pool started."""
        for worker in self.workers:
            ray.kill(cast(ActorHandle[GradientWorker], worker.actor))


def _reason(error: RayActorError) -> str:
    return " ".join(str(error).split())[:300]
