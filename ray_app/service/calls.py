"""Calling actors that may die under a call and are started again by Ray."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ray.exceptions import RayActorError, RayTaskError

from clusterucb.errors import ClusterUCBError, Stopped

Value = TypeVar("Value")
_LIVES = 6
"""Deaths in a row, soon after the call, after which it is not tried again."""
_LONG_S = 60.0
_AGAIN_S = 1.0


async def tried(call: Callable[[], Awaitable[Value]]) -> Value:
    """Await a remote call, again where its actor died under it. Raises the errors of the user as they are."""
    now, deaths = asyncio.get_running_loop().time, 0
    while True:
        began = now()
        try:
            return await call()
        except RayActorError:
            deaths = deaths + 1 if now() - began < _LONG_S else 1
            if deaths == _LIVES:
                raise
            await asyncio.sleep(_AGAIN_S * 2**deaths)
        except RayTaskError as error:
            if isinstance(error.cause, ClusterUCBError | Stopped):
                raise error.cause from None
            raise
