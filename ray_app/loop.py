"""The driver of a loop: what its stages are computed with on Ray, and how it is shown.

Gradient workers are gone before ranks start, and the other way round: a selection's coordinator and workers end with
its driver, ranks when `fit` returns. A request to stop in the loop's folder is handed on to the stage that is at work.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.table import Table

from clusterucb.checkpoint.model import check_model
from clusterucb.config import RunConfig
from clusterucb.errors import ClusterUCBError, RunFolderError, Stopped
from clusterucb.loop.loop import Loop
from clusterucb.loop.periods import check_loop
from clusterucb.loop.report import write_loop_report
from clusterucb.loop.summary import LoopSummary
from clusterucb.run.disk import write_atomically
from clusterucb.run.events import Cancelled, Completed, Event, EventLog, Failed, Note, Started
from clusterucb.run.run_folder import RunFolder
from clusterucb.training.preparation import check_training
from clusterucb.training.stretch import Stretch
from clusterucb.training.summary import TrainingSummary
from ray_app.cluster import connected
from ray_app.select import select, stoppable
from ray_app.train import keeping, train_in, warmup
from ray_app.views import Mode, View, view_of


def run_loop(config: RunConfig, folder: RunFolder, address: str, mode: Mode) -> LoopSummary:
    """Run a loop to its end in `folder`; a finished folder answers at once."""
    if folder.remote is not None:
        raise RunFolderError(
            f"{folder.location} is a URL: a loop trains, and needs a path on storage that all nodes share"
        )
    if folder.finished:
        folder.start(config, "run")  # refuses other settings
        return LoopSummary.model_validate_json(folder.summary_file.read_text(encoding="utf-8"))
    check_loop(config)
    check_training(config)
    check_model(config.model, config.gradients)
    resumed = folder.start(config, "run")
    with keeping(folder, "loop"):
        folder.clear_cancel()
        log = EventLog(folder.events_file, time.time)
        try:
            log(Started(run=folder.name, resumed=resumed, workers=0))
            with connected(address):
                summary = Loop(config, folder, _OnRay(folder, address, mode, log)).run()
            log(Completed(periods=len(summary.periods)))
            write_loop_report(folder, summary)
            write_atomically(folder.summary_file, summary.model_dump_json(indent=1) + "\n")
            return summary
        except ClusterUCBError as error:
            log(Failed(error=str(error)))
            raise
        except Stopped:
            log(Cancelled())
            raise Stopped(
                f"stopped; everything computed is kept: `clusterucb resume {folder.location}` goes on"
            ) from None
        finally:
            log.close()


class _OnRay:
    """Selections by a coordinator and its workers, trainings by Ray Train's ranks."""

    def __init__(self, loop: RunFolder, address: str, mode: Mode, log: EventLog) -> None:
        self._loop = loop
        self._address = address
        self._mode: Mode = mode
        self._log = log

    def warm_up(self, config: RunConfig, folder: RunFolder, name: str) -> TrainingSummary:
        """Prepare and train."""
        with heeding(self._loop, folder):
            return warmup(config, folder, self._address, self._view(name))

    def select(self, config: RunConfig, folder: RunFolder, name: str) -> None:
        """Select; workers are gone afterwards."""
        with heeding(self._loop, folder):
            select(config, folder, self._address, self._view(name))

    def train(self, stretch: Stretch, config: RunConfig, folder: RunFolder, name: str) -> TrainingSummary:
        """Train; ranks are gone afterwards."""
        with heeding(self._loop, folder), self._view(name) as view, stoppable() as stop:
            return train_in(folder, stretch, config, view, stop)

    def _view(self, name: str) -> "Recorded":
        return Recorded(view_of(self._mode), self._log, name)


@contextmanager
def heeding(loop: RunFolder, stage: RunFolder) -> Iterator[None]:
    """Hand a request to stop a loop on to a stage, for as long as it is at work; raise Stopped before it begins."""
    if loop.cancel_requested and not stage.finished:
        raise Stopped("stopped between two stages")
    over = threading.Event()

    def look() -> None:
        while not over.wait(loop.poll_s):  # again and again: a stage that begins forgets what was asked before
            if loop.cancel_requested and stage.state.is_dir() and not stage.finished:
                stage.request_cancel()

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


class Recorded:
    """A view whose events the loop's own log keeps too, under the stage's name."""

    def __init__(self, view: View, log: EventLog, name: str) -> None:
        self._view = view
        self._log = log
        self._name = name

    def __call__(self, event: Event) -> None:
        """Show and record one event."""
        self._view(event)
        stage = getattr(event, "stage", None)
        if isinstance(stage, str):
            self._log(event.model_copy(update={"stage": f"{self._name}: {stage}"}))
        elif isinstance(event, Note):
            self._log(Note(text=f"{self._name}: {event.text}"))

    def reading(self, what: str, rows: int) -> None:
        """Show how many rows were read."""
        self._view.reading(what, rows)

    def __enter__(self) -> Self:
        self._view.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.__exit__(kind, error, trace)


def print_loop(summary: LoopSummary, folder: RunFolder, console: Console) -> None:
    """Print the periods and where the adapter is."""
    table = Table(title=f"{summary.run}: {summary.mode}", title_justify="left")
    for column in ("period", "scored", "selected", "again", "drift", "recall", "label tokens", "steps", "loss"):
        table.add_column(column, justify="right")
    if summary.warmup is not None:
        trained = summary.warmup
        table.add_row("warm-up", "", "", "", "", "", "", str(trained.steps), _losses(trained))
    for period in summary.periods:
        drift = period.drift
        correlation = None if drift is None else drift.rank_correlation
        table.add_row(
            str(period.period),
            str(period.scored),
            str(period.selected),
            "" if drift is None else str(drift.selected_again),
            "" if correlation is None else f"{correlation:.2f}",
            "" if period.audit is None else f"{period.audit.recall:.0%}",
            f"{period.median_label_tokens:g}",
            str(period.training.steps),
            _losses(period.training),
        )
    console.print(table)
    lines = ["again: selected in the last period too; drift: rank correlation of influence with the last period"]
    if summary.weights:
        lines = [f"weights of the checkpoints: {', '.join(f'{weight:.3f}' for weight in summary.weights)}"]
    lines.append(f"the adapter, with its moments, is in {folder.location}/adapter")
    if summary.merged:
        lines.append(f"the model with the adapter merged in is in {folder.location}/merged")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _losses(trained: TrainingSummary) -> str:
    return f"{trained.first_loss:.3f} -> {trained.last_loss:.3f}"
