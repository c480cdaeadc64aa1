"""What goes on beside the runs: the lease is renewed, old runs are deleted, gauges are kept up.

Invariant: only runs that are over are deleted, and each of these goes on until it is cancelled.
"""

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from ray.exceptions import RayActorError

from clusterucb.config import Retention
from clusterucb.errors import RunFolderError
from clusterucb.run.lease import Lease
from ray_app.service.companions import Companions
from ray_app.service.fair_queue import FairQueue
from ray_app.service.ledger import Asked, Ledger
from ray_app.service.metrics import ServiceMetrics

_SWEEP_S = 600.0
_MEASURE_S = 5.0
_log = logging.getLogger(__name__)


async def keep_lease(lease: Lease, lease_s: float) -> None:
    """Renew the lease; who loses it ends this process, and with it everything that it drives."""
    while True:
        await asyncio.sleep(lease_s / 3)
        try:
            await asyncio.to_thread(lease.renew)
        except RunFolderError as error:
            _log.error("the service ends: %s", error)
            os._exit(1)


async def sweep(ledger: Ledger, keep: Callable[[], Retention], forget: Callable[[Asked], None]) -> None:
    """Delete runs as the configuration says; `forget` hears of each before it goes."""
    while True:
        await asyncio.to_thread(delete_old, ledger, keep(), forget, datetime.now(UTC))
        await asyncio.sleep(_SWEEP_S)


def delete_old(ledger: Ledger, keep: Retention, forget: Callable[[Asked], None], now: datetime) -> None:
    """Delete the runs that are too old, or one too many of their owner's."""
    kept = Counter[str]()
    for run_id in ledger.ids():
        ended = ledger.ended(run_id)
        if ended is None:
            continue
        asked = ledger.asked(run_id)
        kept[asked.owner] += 1
        late = keep.days is not None and now - ended.at > timedelta(days=keep.days)
        if late or (keep.runs_per_token is not None and kept[asked.owner] > keep.runs_per_token):
            forget(asked)
            ledger.remove(run_id)


async def measure(metrics: ServiceMetrics, queue: FairQueue, companions: Companions) -> None:
    """Keep the gauges up."""
    while True:
        metrics.line(len(queue), queue.running)
        with contextlib.suppress(RayActorError):  # it is being started again
            counts = await companions.keeper().counts.remote()
            metrics.workers(counts.lent, counts.idle, counts.waiting)
        await asyncio.sleep(_MEASURE_S)
