"""The preview of a run: prepare it in a temporary folder, time a few micro-batches on one worker, add up.

Invariant: no run folder is written, and what the user would be refused later is refused here, by the same code.
"""

import asyncio
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ray

from actors.lanes import WorkerLost
from actors.pace import Pace
from actors.pool import living_nodes
from actors.remote_worker import Bank, OwnProcesses, RemoteWorker, Source
from actors.resources import WorkerSize, check_room, worker_count, worker_size
from clusterucb.checkpoint.model import ModelShape, check_model, describe
from clusterucb.config import RunConfig
from clusterucb.errors import ResourceError
from clusterucb.gradients.targets import TargetBank
from clusterucb.plan.calibration import Calibration, calibrate
from clusterucb.plan.estimate import Estimate, Measured, estimate
from clusterucb.plan.planned_work import PlannedWork, plan_work
from clusterucb.run.feature_parts import PreparedPart, prepared_parts
from clusterucb.run.feature_stage import feature_store
from clusterucb.run.preparation import Prepared, prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.tasks import Answer, Job, Task
from ray_app.cluster import connected
from ray_app.views import View


def plan(
    config: RunConfig,
    address: str,
    view: View,
    calibrated: bool = True,
    source_of: Callable[[WorkerSize], Source] | None = None,
) -> Estimate:
    """Estimate what `select` with this configuration costs; `calibrated` times one worker of the cluster.

    `source_of` says where a worker of a size comes from; it is started for this alone where that is left out.
    """
    with tempfile.TemporaryDirectory(prefix="clusterucb-plan-") as folder:
        run = RunFolder(Path(folder) / "run")
        with view:
            prepared = prepare(config, run, view.reading)
        work = plan_work(config, prepared.pool, prepared.target)
        shape = describe(config.model, config.gradients)
        calibration = measured = workers = None
        notes = (*check_model(config.model, config.gradients), *prepared.notes)
        if calibrated:
            with connected(address):
                calibration, measured, workers = _calibrate(config, work, prepared, source_of)
        parts = prepared_parts(config, prepared.pool)
        widths = [_width(part, run, config, shape, calibration) for part in parts]
        return estimate(
            config,
            shape,
            work,
            prepared.pool,
            prepared.target,
            None if None in widths else sum(width or 0 for width in widths),
            calibration,
            measured,
            workers,
            notes,
        )


def _width(
    part: PreparedPart, run: RunFolder, config: RunConfig, shape: ModelShape, calibration: Calibration | None
) -> int | None:
    """Return how many numbers a part of the features has, where that is known."""
    store, features = feature_store(part, run), part.features
    if store.complete:
        return store.matrix().shape[1]
    if calibration is not None and part.name in calibration.widths:
        return calibration.widths[part.name]
    if features.kind == "hidden":
        return shape.hidden_size
    if features.kind == "output_gradient" or features.kind == "proxy":
        return features.dim
    if features.kind == "gradient" and config.gradients.sketch.kind != "none":
        return config.gradients.sketch.dim
    return None


def _calibrate(
    config: RunConfig, work: PlannedWork, prepared: Prepared, source_of: Callable[[WorkerSize], Source] | None
) -> tuple[Calibration, Measured, int]:
    """Start one of the workers that the run would start, and time it."""
    wanted, nodes = config.workers, living_nodes()
    size = worker_size(wanted, nodes)
    check_room(wanted, size, nodes)
    bank: Bank = []
    pace = Pace(wanted.deadline_factor, wanted.deadline_min_s, math.inf)
    source = OwnProcesses(config, size) if source_of is None else source_of(size)
    with asyncio.Runner() as runner:
        worker = RemoteWorker(0, runner.run(source.take()), pace, bank, wanted.heartbeat_timeout_s)
        try:
            started = time.perf_counter()
            runner.run(_load(worker, wanted.ready_timeout_s))
            load_seconds = time.perf_counter() - started

            def ask(task: Task, targets: TargetBank | None) -> Answer:
                if targets is not None and not bank:
                    bank.append(ray.put(targets))
                return runner.run(worker.answer(Job("calibration", 0, task)))

            calibration = calibrate(config, work, prepared.pool, prepared.target, ask)
            info = runner.run(worker.info())
        except WorkerLost as error:
            raise ResourceError(
                f"the worker died while it was timed: lower gradients.batch_tokens ({config.gradients.batch_tokens}), "
                f"or give it more memory ({error})"
            ) from None
        finally:
            worker.part()
    peak_gib = info.peak_host_gib if info.device == "cpu" else info.peak_device_gib
    count = worker_count(wanted, size, nodes)
    return calibration, Measured(info.device, load_seconds, peak_gib, calibration.timings), count


async def _load(worker: RemoteWorker, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await worker.place()
            await worker.load()
    except TimeoutError:
        raise ResourceError(
            f"no worker was ready within {timeout_s:g} s: other work holds the cluster's resources, or the model loads "
            f"slowly; raise workers.ready_timeout_s or wait and run again"
        ) from None
