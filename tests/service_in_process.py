"""A real backend without Ray: runs go one after the other through the pipeline in this process, with tiny models.

It keeps its records in memory; everything else is as the seam wants it.
"""

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from clusterucb.config import RunConfig, ServiceConfig
from clusterucb.errors import ClusterUCBError, Stopped
from clusterucb.run.events import Cancelled, Event, EventLog, Failed, Finished, Started
from clusterucb.run.in_process import run_in_process
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import Summary
from ray_app.service.answers import plan_of, scores_of
from ray_app.service.records import (
    News,
    Outcome,
    Plan,
    Readiness,
    RunEvent,
    RunFilter,
    RunPage,
    RunRecord,
    Scores,
    StoredTarget,
    new_run_id,
    settings_of,
)
from ray_app.service.refusals import InvalidRequest, KeyReused, NotFound, QueueFull
from ray_app.service.requests import InlineTarget, ScoreRequest, SelectionRequest, TargetUpload
from ray_app.service.resolution import resolve_scoring, resolve_selection, target_name
from ray_app.service.shelf import Shelf


@dataclass
class _Run:
    record: RunRecord
    config: RunConfig
    stop: bool = False
    task: "asyncio.Task[None] | None" = None


@dataclass
class InProcessBackend:
    """Implements `Backend`."""

    config: ServiceConfig
    hold: bool = False
    """Leave new runs in the queue."""
    _runs: dict[str, _Run] = field(default_factory=dict)
    _keys: dict[tuple[str, str], tuple[SelectionRequest, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = Path(self.config.folder)
        self.shelf = Shelf(self.folder / "targets", self.config.limits)
        self._one = ThreadPoolExecutor(1)
        self._changed = asyncio.Event()

    async def submit(self, owner: str, request: SelectionRequest, key: str | None) -> tuple[RunRecord, bool]:
        if key is not None and (owner, key) in self._keys:
            asked, run_id = self._keys[owner, key]
            if asked != request:
                raise KeyReused(f"Idempotency-Key {key!r} came with another request: use another key")
            return self._runs[run_id].record, True
        waiting = [run for run in self._runs.values() if run.record.status == "queued"]
        if len(waiting) >= self.config.limits.queued_runs:
            raise QueueFull(f"{len(waiting)} runs wait, and limits.queued_runs is that many: try again later")
        config = await asyncio.to_thread(resolve_selection, request, owner, self.config, self.shelf)
        run_id = new_run_id(time.time_ns() // 10**6)
        record = RunRecord(
            id=run_id,
            owner=owner,
            status="queued",
            pool=request.pool,
            checkpoint=request.checkpoint,
            target=target_name(request, config),
            targets=tuple(target.name for target in config.targets),
            label=request.label,
            settings=settings_of(request),
            created=datetime.now(UTC),
            queue_position=len(waiting),
        )
        run = self._runs[run_id] = _Run(record, config)
        if key is not None:
            self._keys[owner, key] = (request, run_id)
        if not self.hold:
            run.task = asyncio.create_task(self._carry_out(run))
        return record, False

    def close(self) -> None:
        """Stop what runs and wait for it: nothing of this service works on while the next test builds a model."""
        for run in self._runs.values():
            run.stop = True
        self._one.shutdown(cancel_futures=True)

    async def _carry_out(self, run: _Run) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._one, self._work, run, loop)

    def _work(self, run: _Run, loop: asyncio.AbstractEventLoop) -> None:
        if run.stop:
            return
        folder = RunFolder(self.folder / "runs" / run.record.id)
        self._tell(run, loop, status="running", started=datetime.now(UTC), queue_position=None)
        log: EventLog | None = None
        try:
            prepare(run.config, folder, lambda what, rows: None)
            log = EventLog(folder.events_file, time.time)
            log(Started(run=folder.name, resumed=False, workers=1))

            def emit(event: Event) -> None:
                assert log is not None
                if run.stop:
                    raise Stopped("stopped")
                log(event)
                _tell_loop(loop, self._notify)

            run_in_process(run.config, folder, emit)
            found = Summary.model_validate_json(folder.summary_file.read_bytes())
            log(Finished(selected=found.selected, scored=found.scored))
            outcome = Outcome(scored=found.scored, selected=found.selected, pool=found.pool)
            self._tell(run, loop, status="finished", finished=datetime.now(UTC), outcome=outcome)
        except Stopped:
            assert log is not None
            log(Cancelled())
            self._tell(run, loop, status="cancelled", finished=datetime.now(UTC))
        except ClusterUCBError as error:
            if log is not None:
                log(Failed(error=str(error)))
            self._tell(run, loop, status="failed", finished=datetime.now(UTC), error=str(error))

    def _tell(self, run: _Run, loop: asyncio.AbstractEventLoop, **update: object) -> None:
        run.record = run.record.model_copy(update=update)
        _tell_loop(loop, self._notify)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def list(self, which: RunFilter, before: str | None, limit: int) -> RunPage:
        wanted = which.model_dump(exclude_none=True)
        found = [
            run.record
            for id, run in sorted(self._runs.items(), reverse=True)
            if (before is None or id < before) and all(getattr(run.record, name) == wanted[name] for name in wanted)
        ]
        return RunPage(runs=tuple(found[:limit]), next=found[limit - 1].id if len(found) > limit else None)

    async def get(self, run_id: str) -> RunRecord:
        if run_id not in self._runs:
            raise NotFound(f"no run {run_id}: GET /v1/selections lists yours")
        return self._runs[run_id].record

    async def news(self, run_id: str, after: int, wait_s: float) -> News:
        first = await self.get(run_id)
        deadline = time.monotonic() + wait_s
        while True:
            changed = self._changed
            record = await self.get(run_id)
            events = _events(self.folder / "runs" / run_id / "events.jsonl", after)
            left = deadline - time.monotonic()
            if events or record != first or record.over or left <= 0:
                return News(record=record, events=events)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), left)

    async def cancel(self, run_id: str) -> RunRecord:
        record = await self.get(run_id)
        run = self._runs[run_id]
        run.stop = True
        if record.status == "queued":
            run.record = record.model_copy(update={"status": "cancelled", "queue_position": None})
            self._notify()
        return run.record

    async def location(self, run_id: str) -> str:
        await self.get(run_id)
        return str(self.folder / "runs" / run_id)

    async def plan(self, owner: str, request: SelectionRequest) -> Plan:
        # in the thread of the runs: loading a model patches torch for all threads
        return await asyncio.get_running_loop().run_in_executor(self._one, self._plan, owner, request)

    def _plan(self, owner: str, request: SelectionRequest) -> Plan:
        from ray_app.plan import plan
        from ray_app.views import LineView

        config = resolve_selection(request, owner, self.config, self.shelf)
        try:
            return plan_of(plan(config, "local", LineView(None), False))
        except ClusterUCBError as error:
            raise InvalidRequest(str(error)) from None

    async def score(self, owner: str, request: ScoreRequest) -> Scores:
        return await asyncio.get_running_loop().run_in_executor(self._one, self._score, owner, request)

    def _score(self, owner: str, request: ScoreRequest) -> Scores:
        rows = self.shelf.keep_rows(InlineTarget(rows=request.rows)).path
        config = resolve_scoring(request, rows, owner, self.config, self.shelf)
        with tempfile.TemporaryDirectory() as there:
            folder = RunFolder(Path(there) / "run")
            try:
                prepare(config, folder, lambda what, rows: None)
                run_in_process(config, folder, lambda event: None)
            except ClusterUCBError as error:
                raise InvalidRequest(str(error)) from None
            return scores_of(folder)

    async def targets(self, owner: str) -> tuple[StoredTarget, ...]:
        known = self.config.catalogue.targets.items()
        return (
            *(
                StoredTarget(
                    name=name,
                    description=target.description,
                    origin="catalogue",
                    rows=None,
                    subtask_field=target.subtask_field,
                )
                for name, target in known
            ),
            *self.shelf.list(owner),
        )

    async def keep_target(self, owner: str, upload: TargetUpload) -> tuple[StoredTarget, bool]:
        return await asyncio.to_thread(self.shelf.keep, owner, upload)

    async def drop_target(self, owner: str, name: str) -> None:
        await asyncio.to_thread(self.shelf.drop, owner, name)

    async def ready(self) -> Readiness:
        return Readiness(ready=True)


def _tell_loop(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the server is gone, and its loop with it
        loop.call_soon_threadsafe(what)


def _events(path: Path, after: int) -> tuple[RunEvent, ...]:
    if not path.exists():
        return ()
    with path.open("rb") as file:
        file.seek(after)
        whole, newline, _ = file.read().rpartition(b"\n")
    place, events = after, []
    for line in whole.splitlines() if newline else ():
        place += len(line) + 1
        if line.startswith(b"{"):  # else `after` was in the middle of a line
            events.append(RunEvent(id=place, line=line.decode()))
    return tuple(events)
