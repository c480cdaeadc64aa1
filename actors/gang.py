"""A worker that is a gang: ranks that hold one model together, behind a front that looks like any other worker.

The front deals every task out to its ranks and joins their answers. Invariants: the ranks are placed together or not
at all, in a placement group that is gone with the gang; where one rank is lost the front ends itself and the others,
so that whoever calls it sees a dead worker and replaces the whole gang.
"""

import logging
import os
import sys
import uuid
from collections.abc import Sequence
from functools import cache
from typing import NoReturn, TypeVar, cast

import ray
import torch
from ray.actor import ActorClass, ActorHandle, ActorProxy
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError
from ray.util import get_placement_group, placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.gradient_worker import assigned_device
from actors.resources import WorkerSize
from clusterucb.checkpoint.gathering import PeerLostError
from clusterucb.checkpoint.ranks import Rank, join_gang, open_store
from clusterucb.config import Features, RunConfig
from clusterucb.errors import ClusterUCBError
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.dealing import deal, join
from clusterucb.run.tasks import Answer, Task
from clusterucb.types import WorkerInfo

Value = TypeVar("Value")
_LOST = (RayActorError, OutOfMemoryError, ObjectLostError)
_log = logging.getLogger(__name__)


class GangRank:
    """One process of a gang: a share of the model on one device."""

    def __init__(self, config_json: str, threads: int) -> None:
        self._config = RunConfig.model_validate_json(config_json)
        self._threads = threads

    @ray.method(concurrency_group="watch")
    def ping(self) -> None:
        """Answer at once, while a task is computed too."""

    @ray.method
    def open(self) -> tuple[str, int]:
        """Open the store at which the ranks meet, on this node's address in the cluster."""
        host = ray.util.get_node_ip_address()
        self._store = open_store(host)
        return host, self._store.port

    @ray.method
    def load(self, rank: Rank) -> WorkerInfo:
        """Join the others and load this rank's share."""
        torch.set_num_threads(self._threads)
        device = assigned_device()
        from clusterucb.checkpoint.sharded import load_share
        from clusterucb.run.worker import Worker

        join_gang(rank, device)
        self._worker = Worker(self._config, device, load_share)
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
        """Do this rank's part of a task, in step with the others."""
        return self._worker.work(task, lambda: ray.get(bank[0]))


RankActor: ActorClass[GangRank] = ray.remote(concurrency_groups={"watch": 1})(GangRank)  # pyright: ignore[reportCallIssue]


class GangFront:
    """Owns the ranks; has the methods of a `GradientWorker`."""

    def __init__(self, config_json: str, threads: int, size: WorkerSize, group: PlacementGroup) -> None:
        self._ranks: list[ActorProxy[GangRank]] = [
            RankActor.options(
                num_cpus=size.num_cpus,
                num_gpus=size.num_gpus,
                memory=size.memory or None,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle),
            ).remote(config_json, threads)
            for bundle in range(size.shards)
        ]

    @ray.method(concurrency_group="watch")
    def ping(self) -> None:
        """Answer when all ranks have, while a task is computed too."""
        self._wait_for_all()

    @ray.method(concurrency_group="watch")
    def node(self) -> str:
        """Return the id of the node of the front, and with it of the first rank, once all ranks answer."""
        self._wait_for_all()
        return ray.get_runtime_context().get_node_id()

    def _wait_for_all(self) -> None:
        self._all([rank.ping.remote() for rank in self._ranks])

    @ray.method
    def load(self) -> WorkerInfo:
        """Let the ranks meet and load the model."""
        ((host, port),) = self._all([self._ranks[0].open.remote()])
        count = len(self._ranks)
        return _summary(
            self._all([rank.load.remote(Rank(index, count, host, port)) for index, rank in enumerate(self._ranks)])
        )

    @ray.method
    def take_on(self, features: Features) -> None:
        """Have all ranks work for another run of the same checkpoint."""
        self._all([rank.take_on.remote(features) for rank in self._ranks])

    @ray.method
    def info(self) -> WorkerInfo:
        """Say what the ranks used so far."""
        return _summary(self._all([rank.info.remote() for rank in self._ranks]))

    @ray.method
    def work(self, task: Task, bank: list["ray.ObjectRef[TargetBank]"]) -> Answer:
        """Answer a task together."""
        parts = deal(task, len(self._ranks))
        return join(
            task, self._all([rank.work.remote(part, bank) for rank, part in zip(self._ranks, parts, strict=True)])
        )

    def _all(self, calls: "Sequence[ray.ObjectRef[Value]]") -> list[Value]:
        """Wait for all ranks, or for the first that fails. Raises what the ranks say of the user's model or data."""
        waiting = list(calls)
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                ray.get(done)
            return ray.get(list(calls))
        except _LOST as error:
            self._end(error)
        except RayTaskError as error:
            if isinstance(error.cause, ClusterUCBError):
                raise error.cause from None
            if isinstance(error.cause, PeerLostError | torch.AcceleratorError):
                self._end(error.cause)
            raise

    def _end(self, error: Exception) -> NoReturn:
        """End the ranks and this process: what is left of a gang computes nothing."""
        _log.error("a gang of %d ranks ends: %s", len(self._ranks), " ".join(str(error).split())[:300])
        for rank in self._ranks:
            ray.kill(cast(ActorHandle[GangRank], rank))
        sys.stderr.flush()
        os._exit(1)


FrontActor: ActorClass[GangFront] = ray.remote(concurrency_groups={"watch": 1})(GangFront)  # pyright: ignore[reportCallIssue]


class Gang:
    """A gang as the pool starts and ends it. Ray places its ranks where there is room for all, now or later."""

    def __init__(self, config_json: str, threads: int, size: WorkerSize) -> None:
        _remove_orphans(_owner())
        asked = {"CPU": size.num_cpus, "GPU": size.num_gpus, "memory": float(size.memory)}
        bundle = {name: amount for name, amount in asked.items() if amount} or {"CPU": 0.001}
        self._group = placement_group([bundle] * size.shards, "PACK", name=f"{_owner()}{uuid.uuid4().hex}")
        self.front: ActorProxy[GangFront] = FrontActor.options(
            num_cpus=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=0),
        ).remote(config_json, threads, size, self._group)

    def end(self) -> None:
        """End front and ranks and give their room back."""
        ray.kill(cast(ActorHandle[GangFront], self.front))
        remove_placement_group(self._group)


def _owner() -> str:
    """Return the name of this process's placement groups, which outlives a restart of its actor."""
    context = ray.get_runtime_context()
    return f"gang-{context.get_actor_id() or context.get_job_id()}-"


@cache
def _remove_orphans(owner: str) -> None:
    """Remove, once a process, the groups that an earlier life of this actor left: they hold resources to the end."""
    for entry in placement_group_table().values():
        if entry["name"].startswith(owner) and entry["state"] != "REMOVED":
            remove_placement_group(get_placement_group(entry["name"]))


def _summary(infos: Sequence[WorkerInfo]) -> WorkerInfo:
    return WorkerInfo(
        device=f"{len(infos)} x {infos[0].device}",
        notes=infos[0].notes,
        peak_host_gib=max(info.peak_host_gib for info in infos),
        peak_device_gib=max(info.peak_device_gib for info in infos),
    )
