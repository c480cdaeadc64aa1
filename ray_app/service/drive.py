"""One run from its request to its end: prepared, coordinated, and joined again whatever dies on the way.

Invariant: there is one coordinator a run folder, found by name; whoever drives a run that is already going joins it.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import ray
from ray.actor import ActorProxy

from actors.coordinator import Coordinator, CoordinatorActor
from actors.coordinator import Outcome as CoordinatorOutcome
from actors.names import NAMESPACE, coordinator_name
from clusterucb.config import RunConfig
from clusterucb.errors import ClusterUCBError, Stopped
from clusterucb.run.lease import in_use
from clusterucb.run.run_folder import RunFolder
from ray_app.service.calls import tried
from ray_app.service.ledger import End
from ray_app.service.preparer import Preparer

_ELSEWHERE_S = 10.0
_STOP_S = 1.0


async def drive(
    config: RunConfig,
    folder: RunFolder,
    stop: Path,
    keeper: str,
    preparer: Callable[[], ActorProxy[Preparer]],
) -> End:
    """Bring a run to its end; the file `stop` ends it early. Raises what is no fault of the run."""
    config = config.model_copy(update={"workers": config.workers.model_copy(update={"on_driver_death": "continue"})})
    try:
        if not folder.finished:
            await tried(lambda: preparer().prepare.remote(config, folder.location, stop))
        while not folder.finished:
            outcome = await _coordinated(config, folder, stop, keeper)
            if outcome.status == "cancelled":
                return End(status="cancelled")
            if outcome.status == "failed" and not await asyncio.to_thread(in_use, folder):
                return End(status="failed", error=outcome.error)
            if outcome.status == "failed":  # a coordinator of a cluster that is being left still has it
                await asyncio.sleep(_ELSEWHERE_S)
        return End(status="finished")
    except Stopped:
        return End(status="cancelled")
    except ClusterUCBError as error:
        return End(status="failed", error=str(error))


async def _coordinated(config: RunConfig, folder: RunFolder, stop: Path, keeper: str) -> CoordinatorOutcome:
    stopping = asyncio.create_task(_stop_on_request(folder, stop))
    try:
        return await tried(lambda: _coordinator(config, folder, keeper).run.remote())
    finally:
        stopping.cancel()
        with contextlib.suppress(ValueError):  # it has ended itself
            ray.kill(ray.get_actor(coordinator_name(folder), namespace=NAMESPACE))


def _coordinator(config: RunConfig, folder: RunFolder, keeper: str) -> ActorProxy[Coordinator]:
    return CoordinatorActor.options(
        name=coordinator_name(folder),
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        num_cpus=0,
    ).remote(folder.location, config.workers, store=config.store, keeper=keeper)


async def _stop_on_request(folder: RunFolder, stop: Path) -> None:
    """Hand a request to stop on until the coordinator sees it: one that has just begun forgets older ones."""
    while True:
        if await asyncio.to_thread(stop.exists):
            await asyncio.to_thread(folder.request_cancel)
        await asyncio.sleep(_STOP_S)
