"""Carries runs to their ends: by driving them, or with the results of a run that has done the very same work.

Invariant: a run that began ends exactly once in the ledger, whatever goes wrong with it; a defect of the service ends
that run and no other.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from clusterucb.config import RunConfig, ServiceConfig, Store
from clusterucb.run.run_folder import RunFolder
from ray_app.service.calls import tried
from ray_app.service.companions import Companions
from ray_app.service.ledger import Asked, End, Ended, Ledger
from ray_app.service.metrics import ServiceMetrics
from ray_app.service.refusals import NotFound
from ray_app.service.twins import link_results

_log = logging.getLogger(__name__)


class Runner:
    """Knows which finished run has done which work."""

    def __init__(
        self, ledger: Ledger, config: Callable[[], ServiceConfig], companions: Companions, metrics: ServiceMetrics
    ) -> None:
        self._ledger = ledger
        self._config = config
        self._companions = companions
        self._metrics = metrics
        self._finished: dict[str, str] = {}

    async def carry_out(self, asked: Asked) -> None:
        """Bring a run to its end."""
        try:
            if not await self.answered_already(asked):
                await self.end(asked, await self._driven(asked))
        except Exception as error:  # the edge: what is no fault of the run ends it, and no other
            _log.exception("run %s ended by a defect", asked.id)
            words = " ".join(str(error).split())[:500]
            await self.end(asked, End(status="failed", error=f"the service failed at this run: {words}; ask again"))

    async def drive(self, config: RunConfig, folder: RunFolder, stop: Path) -> End:
        """Have a coordinator compute a folder, on warm workers; stop once the file `stop` is there."""
        from ray_app.service.drive import drive

        return await drive(config, folder, stop, self._companions.keeper_name, self._companions.preparer)

    async def answered_already(self, asked: Asked) -> bool:
        """End a run whose very work another has done: with its results, and without a gradient."""
        twin = self._finished.get(asked.work)
        if twin is None:
            return False
        ended = await asyncio.to_thread(self._linked, asked, twin, datetime.now(UTC))
        if ended is None:
            return False
        await asyncio.to_thread(self._ledger.begin, asked.id, ended.at)
        await asyncio.to_thread(self._ledger.end, asked.id, ended)
        self._metrics.ended("finished")
        return True

    async def end(self, asked: Asked, end: End) -> None:
        """Note how a run ended."""
        outcome = gradients = None
        if end.status == "finished":
            location = self._ledger.folder(asked.id).location
            outcome, gradients = await tried(lambda: self._companions.preparer().outcome.remote(location))
        ended = Ended(status=end.status, at=datetime.now(UTC), error=end.error, outcome=outcome, gradients=gradients)
        await asyncio.to_thread(self._ledger.end, asked.id, ended)
        self.note(asked, ended)
        self._metrics.ended(end.status)

    def note(self, asked: Asked, ended: Ended) -> None:
        """Know what a finished run has done."""
        if ended.status == "finished":
            self._finished[asked.work] = asked.id

    def forget(self, asked: Asked) -> None:
        """Let go of a run that is deleted."""
        if self._finished.get(asked.work) == asked.id:
            del self._finished[asked.work]

    async def _driven(self, asked: Asked) -> End:
        await asyncio.to_thread(self._ledger.begin, asked.id, datetime.now(UTC))
        config = asked.config.model_copy(update={"workers": self._config().workers, "store": self._store})
        return await self.drive(config, self._ledger.folder(asked.id), self._ledger.stop_file(asked.id))

    @property
    def _store(self) -> Store:
        """Where runs leave their sketches for each other."""
        kept = self._config().sketches
        return Store(path=kept.path or str(Path(self._config().folder).resolve() / "sketches"), max_gib=kept.max_gib)

    def _linked(self, asked: Asked, twin: str, now: datetime) -> Ended | None:
        try:
            other = self._ledger.asked(twin)
        except NotFound:  # deleted meanwhile
            return None
        if _computed(asked.config) != _computed(other.config):
            return None
        return link_results(self._ledger.folder(twin), self._ledger.folder(asked.id), self._ledger.ended(twin), now)


def _computed(config: RunConfig) -> dict[str, object]:
    """Return what settles a run's results, by section."""
    return config.model_dump(exclude={"workers", "store"})
