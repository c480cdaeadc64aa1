"""Work that is one Ray task on one device each: as many at a time as there is room for, their events being shown.

Invariant: what a task leaves is in its folder, so that stopping, or losing this driver, costs what is in flight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayTaskError, WorkerCrashedError

from actors.pool import living_nodes
from actors.resources import WorkerSize, check_room, worker_count, worker_size
from clusterucb.config import Workers
from clusterucb.errors import ClusterUCBError, ResourceError, Stopped
from clusterucb.run.events import Event
from clusterucb.run.run_folder import RunFolder
from ray_app.status import EventReader

_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class DeviceTask:
    """A remote function of (argument, threads), and the folder that it writes its events to."""

    function: Any
    argument: str
    folder: RunFolder


def device_size(workers: Workers) -> WorkerSize:
    """Return what each task holds: a device. Raises ResourceError where the cluster has none such."""
    nodes = living_nodes()
    alone = workers.model_copy(update={"shards": 1, "count": 1})
    size = worker_size(alone, nodes)
    check_room(alone, size, nodes)
    return size


def run_on_devices(
    tasks: Sequence[DeviceTask],
    workers: Workers,
    show: Callable[[DeviceTask, Event], None],
    stopped: Callable[[], bool],
) -> None:
    """Run all tasks. Raises what one raised, once the others in flight have ended or stopped; Stopped on request."""
    size = device_size(workers)
    window = worker_count(workers.model_copy(update={"shards": 1}), size, living_nodes())
    options = {"num_cpus": size.num_cpus, "num_gpus": size.num_gpus, "memory": size.memory or None}
    waiting = list(tasks)
    running: dict[Any, tuple[DeviceTask, EventReader]] = {}
    first: Exception | None = None
    asked = False
    while running or (waiting and first is None and not stopped()):
        while waiting and len(running) < window and first is None and not stopped():
            task = waiting.pop(0)
            task.folder.clear_cancel()
            news = EventReader(task.folder)
            news()  # what an earlier driver has shown
            started = task.function.options(**options).remote(task.argument, max(1, int(size.num_cpus)))
            running[started] = (task, news)
        ready, _ = ray.wait(list(running), timeout=_POLL_S)
        for task, news in running.values():
            for event in news():
                show(task, event)
        for done in ready:
            running.pop(done)
            first = first or _error_of(done)
        if (stopped() or first is not None) and not asked:
            asked = True
            for task, _ in running.values():
                Path(task.folder.state).mkdir(parents=True, exist_ok=True)
                task.folder.request_cancel()
    if first is not None and not (stopped() and isinstance(first, Stopped)):
        raise first
    if stopped():
        raise Stopped("stopped")


def _error_of(done: Any) -> Exception | None:
    try:
        ray.get(done)
    except RayTaskError as error:
        cause = error.cause
        return cause if isinstance(cause, ClusterUCBError | Stopped) else error
    except WorkerCrashedError as error:
        words = " ".join(str(error).split())[:300]
        return ResourceError(f"the process that computed died again and again ({words}): see the Ray logs")
    return None
