"""How a run is shown while it goes: one bar on a terminal, JSON lines for programs, or nothing.

Invariant: views are fed by events alone, the same ones that the run folder keeps.
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from clusterucb.run.events import (
    Cancelled,
    Evaluated,
    Event,
    Failed,
    Note,
    Progressed,
    StageFinished,
    StageStarted,
    Started,
    Stepped,
    Suspected,
    Waiting,
    WorkerLost,
    WorkerReady,
    WorkerRetired,
)

Mode = Literal["bar", "json", "quiet"]

_LINE_S = 10.0


class View(Protocol):
    """Receives events between enter and exit."""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        ...

    def reading(self, what: str, rows: int) -> None:
        """Show how many rows of the pool or the target were read."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LineView:
    """Writes each event as a line, or nothing at all."""

    def __init__(self, write: Callable[[str], None] | None) -> None:
        self._write = write

    def __call__(self, event: Event) -> None:
        """Write the event as JSON."""
        if self._write is not None:
            self._write(event.model_dump_json(exclude_none=True))

    def reading(self, what: str, rows: int) -> None:
        """Say nothing: the events that follow tell the sizes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class BarView:
    """One progress bar with rate, remaining time and best influence; notes above it.

    Where no terminal is (the log of a job, a file) a line now and then stands for the bar.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[best]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._began = 0.0
        self._samples = 0
        self._best = float("-inf")
        self._failed = 0
        self._unit = "samples"
        self._spoke = clock()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.live.transient = kind is not None  # a half-filled bar would stand above the error
        self._progress.live.stop()

    def reading(self, what: str, rows: int) -> None:
        """Show the rows read as a bar without an end."""
        if self._task is None or self._progress.tasks[-1].description != f"read {what}":
            self._task = self._progress.add_task(f"read {what}", total=None, rate="", best="")
        self._progress.update(self._task, completed=rows)
        self._speak(f"read {what}", "rows")

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case Started():
                again = "resuming" if event.resumed else "starting"
                workers = f" with {event.workers} workers" if event.workers else ""  # a loop has none of its own
                self._console.print(f"{again} {event.run}{workers}", highlight=False)
            case Note():
                self._console.print(f"note: {event.text}", style="yellow", highlight=False, markup=False)
            case WorkerReady():
                self._console.print(f"worker {event.worker} ready on {event.device}", style="dim", highlight=False)
                for note in event.notes:
                    self._console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
            case WorkerLost():
                text = f"worker {event.worker} lost, its work is given back: {event.reason}"
                self._console.print(text, style="red", highlight=False, markup=False)
            case WorkerRetired():
                text = f"worker {event.worker} is given up after {event.deaths} deaths in a row"
                self._console.print(text, style="red", highlight=False)
            case Suspected():
                text = f"micro-batch {event.job} of stage {event.stage} keeps losing its worker: looking for the sample"
                self._console.print(text, style="yellow", highlight=False)
            case Waiting():
                self._console.print(f"waiting: {event.text}", style="yellow", highlight=False, markup=False)
            case StageStarted():
                self._task = self._progress.add_task(
                    event.stage, total=event.total, completed=event.done, rate="", best=""
                )
                self._began, self._samples, self._best, self._failed = self._clock(), 0, float("-inf"), 0
                self._unit = "samples"
            case Progressed() if self._task is not None:
                self._advance(self._task, event)
            case Stepped() if self._task is not None:
                self._samples, self._unit = self._samples + 1, "steps"
                rate = self._samples / max(self._clock() - self._began, 1e-9)
                self._progress.update(self._task, advance=1, rate=f"{rate:.2f}/s", best=f"loss {event.loss:.3f}")
                self._speak(event.stage, f"steps, {rate:.2f}/s, loss {event.loss:.3f}")
            case StageFinished() if self._task is not None:
                done = self._progress.tasks[self._task].completed
                self._progress.update(self._task, total=done)
                self._speak(event.stage, f"{self._unit}, done", last=True)
            case Evaluated():
                at = "" if event.step is None else f" at step {event.step}"
                text = f"{event.what}{at}: held-out loss {event.loss:.4f}, token accuracy {event.accuracy:.1%}"
                self._console.print(text, style="dim", highlight=False, markup=False)
            case Cancelled() | Failed():
                self._console.print(event.event, style="red")
            case _:
                pass

    def _advance(self, task: TaskID, event: Progressed) -> None:
        self._samples += event.samples
        self._failed += event.failed
        self._best = max(self._best, event.best if event.best is not None else float("-inf"))
        rate = self._samples / max(self._clock() - self._began, 1e-9)
        best = "" if self._best == float("-inf") else f"best {self._best:.3f}"
        failed = f" {self._failed} failed" if self._failed else ""
        self._progress.update(task, advance=event.samples, rate=f"{rate:.1f}/s", best=best + failed)
        self._speak(event.stage, f"samples, {rate:.1f}/s {best}{failed}".rstrip())

    def _speak(self, what: str, how: str, last: bool = False) -> None:
        """Say in a line how far the newest task is, every `_LINE_S` seconds and at its end, where no bar shows it."""
        now = self._clock()
        if self._console.is_terminal or not (last or now - self._spoke >= _LINE_S):
            return
        self._spoke = now
        task = self._progress.tasks[-1]
        total = "" if task.total is None else f" of {task.total:.0f}"
        self._console.print(f"{what}: {task.completed:.0f}{total} {how}", highlight=False, markup=False)


def view_of(mode: Mode) -> View:
    """Return the view for a mode; bars go to standard error, JSON to standard output."""
    if mode == "bar":
        return BarView(Console(stderr=True, soft_wrap=True))
    return LineView(None if mode == "quiet" else lambda line: print(line, file=sys.stdout, flush=True))
