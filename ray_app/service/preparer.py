"""What a service does for its runs outside its event loop: checks and tokens, plans, reading results.

A process of its own, so that reading a large pool keeps nobody waiting, with the libraries loaded already. Invariant:
it holds nothing; whatever it was doing when it died is done again.
"""

import asyncio
from pathlib import Path

import ray
from ray.actor import ActorClass

from actors.keeper import KeptWorkers
from actors.resources import WorkerSize
from clusterucb.config import RunConfig
from clusterucb.errors import Stopped
from clusterucb.run.checkpoint_key import checkpoint_key
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import Summary
from ray_app.plan import plan
from ray_app.service.answers import gradients_of, plan_of, scores_of
from ray_app.service.records import GradientCounts, Outcome, Plan, Scores
from ray_app.views import LineView


class Preparer:
    """Prepares runs; several at a time."""

    def __init__(self, keeper: str) -> None:
        self._keeper = keeper

    @ray.method
    async def prepare(self, config: RunConfig, location: str, stop: Path) -> None:
        """Check and tokenise. Raises what is wrong with the run, or Stopped once the file `stop` is there."""

        def reading(what: str, rows: int) -> None:
            if stop.exists():
                raise Stopped(f"stopped while reading the {what}")

        reading("request", 0)
        await asyncio.to_thread(prepare, config, RunFolder.open(location), reading)

    @ray.method
    async def plan(self, config: RunConfig) -> Plan:
        """Say what a run costs, timed on a warm worker. Raises what is wrong with it."""
        kept: list[KeptWorkers] = []

        def source(size: WorkerSize) -> KeptWorkers:
            kept.append(KeptWorkers(self._keeper, "plan", checkpoint_key(config), config, size))
            return kept[0]

        try:
            return plan_of(await asyncio.to_thread(plan, config, "", LineView(None), True, source))
        finally:
            for each in kept:
                each.close()

    @ray.method
    async def outcome(self, location: str) -> tuple[Outcome, GradientCounts]:
        """Return what a finished run found, in short, and what it cost."""
        folder = RunFolder.open(location)
        text = await asyncio.to_thread(folder.bring(folder.summary_file).read_bytes)
        found = Summary.model_validate_json(text)
        outcome = Outcome(scored=found.scored, selected=found.selected, pool=found.pool)
        return outcome, gradients_of(found)

    @ray.method
    async def scores(self, location: str) -> Scores:
        """Return what a finished scoring found."""
        return await asyncio.to_thread(scores_of, RunFolder.open(location))

    @ray.method
    async def over(self) -> None:
        """Never return: what is borrowed here is given back by name, or when this process dies."""
        await asyncio.Event().wait()


PreparerActor: ActorClass[Preparer] = ray.remote(Preparer)
