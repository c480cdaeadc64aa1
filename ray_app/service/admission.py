"""Whether a request is taken: one that is known already is its run, one more than the line holds is refused.

Invariant: what is known here is what the folder says; a key belongs to one name and to one request for ever.
"""

import hashlib

from clusterucb.config import Limits
from ray_app.service.fair_queue import FairQueue
from ray_app.service.ledger import Asked, Ledger
from ray_app.service.refusals import KeyReused, QueueFull
from ray_app.service.requests import SelectionRequest

_AGAIN_S = 30.0


def digest_of(request: SelectionRequest) -> str:
    """Return what a key is held against."""
    return hashlib.blake2b(request.model_dump_json().encode(), digest_size=16).hexdigest()


class Admission:
    """Knows the keys of all runs that are kept, and how many runs may wait."""

    def __init__(self, ledger: Ledger, queue: FairQueue) -> None:
        self._ledger = ledger
        self._queue = queue
        self._keys: dict[tuple[str, str], tuple[str, str]] = {}

    def remember(self, asked: Asked) -> None:
        """Know a run's key."""
        if asked.key is not None:
            self._keys[asked.owner, asked.key] = (asked.id, asked.request)

    def forget(self, asked: Asked) -> None:
        """Free the key of a run that is deleted."""
        if asked.key is not None and self._keys.get((asked.owner, asked.key), ("", ""))[0] == asked.id:
            del self._keys[asked.owner, asked.key]

    def known(self, run_id: str, owner: str, digest: str, key: str | None) -> str | None:
        """Return the run that a request already is. Raises KeyReused."""
        if self._ledger.knows(run_id):
            return run_id
        if key is None or (owner, key) not in self._keys:
            return None
        found, request = self._keys[owner, key]
        if request != digest:
            raise KeyReused(f"Idempotency-Key {key!r} came with another request: use another key")
        return found

    def check_room(self, owner: str, limits: Limits) -> None:
        """Raise QueueFull where one more run may not wait."""
        free = self._queue.running < limits.active_runs
        if len(self._queue) >= limits.queued_runs + free:
            raise QueueFull(
                f"{len(self._queue)} runs wait, and limits.queued_runs is {limits.queued_runs}: try again later",
                _AGAIN_S,
            )
        if (waiting := self._queue.waiting_of(owner)) >= limits.queued_runs_per_token:
            raise QueueFull(
                f"{waiting} runs of {owner} wait, and limits.queued_runs_per_token is "
                f"{limits.queued_runs_per_token}: try again later",
                _AGAIN_S,
            )
