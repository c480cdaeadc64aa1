"""What a run folder says of its run, without reaching the cluster: status, following, asking to stop."""

import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console

from clusterucb.errors import RunFolderError
from clusterucb.run.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Progressed,
    StageFinished,
    StageStarted,
    Started,
    parse_event,
)
from clusterucb.run.run_folder import RunFolder
from ray_app.views import View

_POLL_S = 0.5


class StageStatus(BaseModel):
    """How far one stage is."""

    stage: str
    done: int
    total: int
    finished: bool


class Status(BaseModel):
    """How far a run is."""

    run: str
    state: str
    workers: int
    stages: list[StageStatus]
    last_event_s: float | None
    error: str | None


def _events(folder: RunFolder) -> Iterator[Event]:
    if not folder.exists:
        raise RunFolderError(f"{folder.path} holds no run: there is no config.json in it")
    if not folder.events_file.exists():
        return
    with folder.events_file.open(encoding="utf-8") as file:
        yield from (parse_event(line) for line in file if line.endswith("\n"))


def read_status(run: Path) -> Status:
    """Derive the status from the events."""
    folder = RunFolder(run.resolve())
    state, workers, error, last = "prepared", 0, None, None
    stages: dict[str, StageStatus] = {}
    for event in _events(folder):
        last = event.time
        match event:
            case Started():
                state, workers, error = "running", event.workers, None
            case StageStarted():
                stages[event.stage] = StageStatus(stage=event.stage, done=event.done, total=event.total, finished=False)
            case Progressed():
                stages[event.stage].done += event.samples
            case StageFinished():
                stages[event.stage].finished = True
            case Cancelled() | Finished():
                state = event.event
            case Failed():
                state, error = "failed", event.error
            case _:
                pass
    return Status(
        run=folder.path.name,
        state="finished" if folder.finished else state,
        workers=workers,
        stages=list(stages.values()),
        last_event_s=None if last is None else max(0.0, time.time() - last),
        error=error,
    )


def print_status(status: Status, console: Console) -> None:
    """Print the status in a few lines."""
    ago = "" if status.last_event_s is None else f", last event {status.last_event_s:.0f} s ago"
    console.print(f"{status.run}: {status.state}{ago}", highlight=False)
    for stage in status.stages:
        console.print(
            f"  {stage.stage:<9} {stage.done} of {stage.total}{', done' if stage.finished else ''}", highlight=False
        )
    if status.error:
        console.print(f"  {status.error}", style="red", highlight=False, markup=False)


def follow(run: Path, view: View) -> None:
    """Show the events of a run, those already there first, until it ends."""
    folder = RunFolder(run.resolve())
    if not folder.exists:
        raise RunFolderError(f"{folder.path} holds no run: there is no config.json in it")
    seen = 0
    with view:
        while True:
            events = list(_events(folder))
            for event in events[seen:]:
                view(event)
            seen = len(events)
            if events and isinstance(events[-1], Finished | Cancelled | Failed):
                return
            time.sleep(_POLL_S)


def request_cancel(run: Path) -> None:
    """Leave a request in the folder that the coordinator sees; it needs no access to the cluster."""
    folder = RunFolder(run.resolve())
    if not folder.exists:
        raise RunFolderError(f"{folder.path} holds no run: there is no config.json in it")
    if folder.finished:
        raise RunFolderError(f"{folder.path} is finished: there is nothing to stop")
    folder.cancel_file.touch()
