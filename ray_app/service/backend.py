"""What stands behind the HTTP room: the seam between it and whatever runs the selections.

Invariants: `owner` is the name of a token whose right to ask was checked by the caller, as was that a run belongs to
it; every refusal is a `Refusal`; anything else that is raised is a defect. All methods may be called at once from many
replicas; none blocks the event loop.
"""

from typing import Protocol

from ray_app.service.records import News, Plan, Readiness, RunFilter, RunPage, RunRecord, Scores, StoredTarget
from ray_app.service.requests import ScoreRequest, SelectionRequest, TargetUpload


class Backend(Protocol):
    """Runs selections."""

    async def submit(self, owner: str, request: SelectionRequest, key: str | None) -> tuple[RunRecord, bool]:
        """Queue a selection; return its record, and whether `key` had already brought it here.

        The run is durable when this returns. The same owner, key and request give the same run, whatever became of it,
        also after a restart; keys of other owners do not meet. Raises KeyReused where the key came with another
        request, QueueFull, InvalidRequest (naming the field) where the catalogue or the limits refuse it.
        """
        ...

    async def list(self, which: RunFilter, before: str | None, limit: int) -> RunPage:
        """Return runs older than `before`, the newest first; stages may be left out of them."""
        ...

    async def get(self, run_id: str) -> RunRecord:
        """Return a run with its progress. Raises NotFound."""
        ...

    async def news(self, run_id: str, after: int, wait_s: float) -> News:
        """Return the events that end beyond byte `after` of the run's `events.jsonl`, in order, a few hundred at most.

        Where there is none and the run is not over, wait up to `wait_s` for one, or for the record to change. A record
        that is over comes only with the last events, or with none left: who has seen it has seen all. Raises NotFound.
        """
        ...

    async def cancel(self, run_id: str) -> RunRecord:
        """Ask a run to stop; return it as it stands. A run that is over stays as it is. Raises NotFound."""
        ...

    async def location(self, run_id: str) -> str:
        """Return where the run's folder is, for `RunFolder.open`; it may not be there yet. Raises NotFound."""
        ...

    async def plan(self, owner: str, request: SelectionRequest) -> Plan:
        """Say what a selection would cost. Raises InvalidRequest, Busy."""
        ...

    async def score(self, owner: str, request: ScoreRequest) -> Scores:
        """Score samples. Raises InvalidRequest, Busy."""
        ...

    async def targets(self, owner: str) -> tuple[StoredTarget, ...]:
        """Return the catalogue's targets and those that `owner` uploaded."""
        ...

    async def keep_target(self, owner: str, upload: TargetUpload) -> tuple[StoredTarget, bool]:
        """Keep a target under its name; return it, and whether just this was there already.

        Raises Conflict where the name stands for other rows, InvalidRequest where rows or their number do not do.
        """
        ...

    async def drop_target(self, owner: str, name: str) -> None:
        """Forget an uploaded target; runs that use it keep their rows. Raises NotFound."""
        ...

    async def ready(self) -> Readiness:
        """Say whether requests can be taken; never raises."""
        ...
