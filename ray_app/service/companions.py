"""The actors beside the service: the keeper of warm workers, and the preparer.

Invariant: both are found or started when they are first needed; a service that starts again finds the keeper of its
last life. Replicas load this file, so that what brings torch is imported where it is used.
"""

from typing import TYPE_CHECKING, cast

import ray
from ray.actor import ActorHandle, ActorProxy

from actors.lending import Patience
from actors.names import NAMESPACE

if TYPE_CHECKING:
    from actors.keeper import Keeper
    from ray_app.service.preparer import Preparer


class Companions:
    """Starts them, and ends the keeper with the service."""

    def __init__(self, keeper_name: str) -> None:
        self.keeper_name = keeper_name
        self._keeper: ActorProxy[Keeper] | None = None
        self._preparer: ActorProxy[Preparer] | None = None

    def keeper(self) -> "ActorProxy[Keeper]":
        """Return the keeper, which outlives the service's process."""
        if self._keeper is None:
            from actors.keeper import KeeperActor

            self._keeper = KeeperActor.options(
                name=self.keeper_name,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                num_cpus=0,
                max_concurrency=10_000,
            ).remote(Patience())
        return self._keeper

    def preparer(self) -> "ActorProxy[Preparer]":
        """Return the preparer, which ends with the service's process."""
        if self._preparer is None:
            from ray_app.service.preparer import PreparerActor

            self._preparer = PreparerActor.options(num_cpus=0, max_restarts=-1).remote(self.keeper_name)
        return self._preparer

    async def end(self) -> None:
        """End the workers and their keeper."""
        if self._keeper is not None:
            await self._keeper.end_all.remote()
            ray.kill(cast("ActorHandle[Keeper]", self._keeper))
            self._keeper = None
