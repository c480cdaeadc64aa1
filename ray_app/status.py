"""What a run folder says of its run, without reaching the cluster: status, following, asking to stop."""

import time
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console

from clusterucb.errors import RunFolderError
from clusterucb.loop.periods import LoopFolders
from clusterucb.run.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Progressed,
    StageFinished,
    StageStarted,
    Started,
    Stepped,
    parse_event,
)
from clusterucb.run.run_folder import RunFolder
from ray_app.views import View


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
    reports: list[str]
    """Those that are written: of the run, and of a loop's selections."""


class EventReader:
    """Reads the events of a run, new ones at every call; a line that is being written waits for the next call."""

    def __init__(self, folder: RunFolder) -> None:
        if not folder.exists:
            raise RunFolderError(f"{folder.location} holds no run: there is no config.json in it")
        self._folder = folder
        self._read = 0

    def __call__(self) -> list[Event]:
        whole, newline, _ = self._folder.read_events(self._read).rpartition(b"\n")
        self._read += len(whole) + len(newline)
        return [parse_event(line.decode()) for line in whole.splitlines()]


def read_status(run: str | Path) -> Status:
    """Derive the status from the events."""
    folder = RunFolder.open(run)
    state, workers, error, last = "prepared", 0, None, None
    stages: dict[str, StageStatus] = {}
    for event in EventReader(folder)():
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
            case Stepped():
                stages[event.stage].done += 1
            case Cancelled() | Finished():
                state = event.event
            case Failed():
                state, error = "failed", event.error
            case _:
                pass
    return Status(
        run=folder.name,
        state="finished" if folder.finished else state,
        workers=workers,
        stages=list(stages.values()),
        last_event_s=None if last is None else max(0.0, time.time() - last),
        error=error,
        reports=_reports(folder),
    )


def _reports(folder: RunFolder) -> list[str]:
    """Return where reports are: at a URL that of the run, which is the last of its files but one."""
    if folder.remote is not None:
        return [f"{folder.location}/{folder.report_file.name}"] if folder.finished else []
    parts = [folder, *(LoopFolders(folder.path).begun_selections() if folder.verb == "run" else ())]
    return [str(part.report_file) for part in parts if part.report_file.exists()]


def print_status(status: Status, console: Console) -> None:
    """Print the status in a few lines."""
    ago = "" if status.last_event_s is None else f", last event {status.last_event_s:.0f} s ago"
    console.print(f"{status.run}: {status.state}{ago}", highlight=False)
    width = max((len(stage.stage) for stage in status.stages), default=0)
    for stage in status.stages:
        console.print(
            f"  {stage.stage:<{width}} {stage.done} of {stage.total}{', done' if stage.finished else ''}",
            highlight=False,
        )
    for report in status.reports:
        console.print(f"  report: {report}", highlight=False, soft_wrap=True)
    if status.error:
        console.print(f"  {status.error}", style="red", highlight=False, markup=False)


def follow(run: str | Path, view: View) -> None:
    """Show the events of a run, those already there first, until it ends."""
    folder = RunFolder.open(run)
    news, last = EventReader(folder), None
    with view:
        while True:
            over = folder.finished  # before the last look
            for last in news():
                view(last)
            if over or isinstance(last, Finished | Cancelled | Failed):
                return
            time.sleep(folder.poll_s)


def request_cancel(run: str | Path) -> None:
    """Leave a request in the folder that the coordinator sees; it needs no access to the cluster."""
    folder = RunFolder.open(run)
    if not folder.exists:
        raise RunFolderError(f"{folder.location} holds no run: there is no config.json in it")
    if folder.finished:
        raise RunFolderError(f"{folder.location} is finished: there is nothing to stop")
    folder.request_cancel()
