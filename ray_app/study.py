"""The driver of a study: trials as Ray tasks, as many at a time as there are devices, and how they are shown."""

import threading
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from actors.trials import try_on_device
from clusterucb.config import RunConfig
from clusterucb.errors import RunFolderError, Stopped
from clusterucb.run.events import (
    Completed,
    Evaluated,
    Event,
    EventLog,
    Note,
    StageFinished,
    StageStarted,
    Started,
    Stepped,
)
from clusterucb.run.run_folder import RunFolder
from clusterucb.study.preparation import prepare_study
from clusterucb.study.result import BASELINE, ArmResult, StudySummary
from clusterucb.study.statistics import Difference
from clusterucb.study.study import SELECTED, Study
from clusterucb.study.trial import Trial
from ray_app.cluster import connected
from ray_app.devices import DeviceTask, run_on_devices
from ray_app.select import select, stoppable
from ray_app.train import keeping, train_in
from ray_app.views import Mode, View, view_of

_STAGE = "study"


def study(config: RunConfig, folder: RunFolder, source: RunFolder | None, address: str, mode: Mode) -> StudySummary:
    """Run a study to its end in `folder`; `source` is the finished run whose selection is judged."""
    from ray_app.study_plot import plot

    if folder.finished:
        folder.start(config, "study")  # refuses other settings
        return read_study(folder)
    with view_of(mode) as view:
        resumed = folder.exists
        prepared = prepare_study(config, folder, source, view.reading)
        with keeping(folder, "study"), stoppable() as stop:
            log = EventLog(folder.events_file, time.time)
            try:
                log(Started(run=folder.name, resumed=resumed, workers=0))
                folder.clear_cancel()
                bench = _OnRay(address, view, log, stop, folder)
                for note in prepared.notes:
                    bench.tell(Note(text=note))
                with connected(address):
                    summary = Study(config, folder, prepared.held_out, bench).run()
                plot(summary, folder.path / "study")
                log(Completed(trainings=sum(len(arm.seeds) for arm in summary.arms)))
            except Stopped:
                raise Stopped(
                    f"stopped; everything computed is kept: `clusterucb resume {folder.location}` goes on"
                ) from None
            finally:
                log.close()
    return summary


class _OnRay:
    """Trials on one device each; where ranks train together, trainings one after another before they are judged."""

    def __init__(self, address: str, view: View, log: EventLog, stop: threading.Event, folder: RunFolder) -> None:
        self._address = address
        self._view = view
        self._log = log
        self._stop = stop
        self._folder = folder

    def tell(self, event: Event) -> None:
        """Show and record."""
        self._view(event)
        self._log(event)

    def select(self, config: RunConfig, folder: RunFolder) -> None:
        """Score the whole pool."""
        select(config, folder, self._address, self._view)

    def try_all(self, trials: Sequence[Trial], config: RunConfig) -> None:
        """Have every curve written."""
        waiting = [trial for trial in trials if not trial.curve_file.exists()]
        total = sum(trial.stretch.steps for trial in trials if trial.stretch is not None)
        left = sum(trial.stretch.steps for trial in waiting if trial.stretch is not None)
        self._view(StageStarted(stage=_STAGE, total=total, done=total - left))
        together = config.training.zero > 0 or config.training.ranks not in ("auto", 1)
        for trial in waiting if together else ():
            if trial.stretch is not None:
                train_in(RunFolder(trial.folder), trial.stretch, config, self._of(trial), self._stop)
        tasks = [DeviceTask(try_on_device, trial.model_dump_json(), RunFolder(trial.folder)) for trial in waiting]
        names = {task.argument: trial for task, trial in zip(tasks, waiting, strict=True)}
        run_on_devices(tasks, config.workers, lambda task, event: self._of(names[task.argument])(event), self._stopped)
        self._view(StageFinished(stage=_STAGE))

    def _stopped(self) -> bool:
        return self._stop.is_set() or self._folder.cancel_requested

    def _of(self, trial: Trial) -> "_TrialEvents":
        return _TrialEvents(trial, self)

    def show(self, event: Event, trial: Trial) -> None:
        """Show and record an event of a trial as one of the study: one bar for all, a stage for each in the log."""
        if isinstance(event, StageStarted | Stepped | StageFinished) and event.stage == "training":
            self._log(event.model_copy(update={"stage": trial.name}))
            if isinstance(event, Stepped):
                self._view(event.model_copy(update={"stage": _STAGE}))
        elif isinstance(event, Evaluated):
            self._log(event)
            if trial.stretch is None or event.step == trial.stretch.steps:
                self._view(event)
        elif isinstance(event, Note):
            self.tell(Note(text=f"{trial.name}: {event.text}"))


class _TrialEvents:
    """Receives the events of one trial."""

    def __init__(self, trial: Trial, bench: _OnRay) -> None:
        self._trial = trial
        self._bench = bench

    def __call__(self, event: Event) -> None:
        self._bench.show(event, self._trial)


def read_study(folder: RunFolder) -> StudySummary:
    """Return the summary of a finished study."""
    return StudySummary.model_validate_json(folder.summary_file.read_bytes())


def print_study(summary: StudySummary, folder: RunFolder, console: Console) -> None:
    """Print arms and differences, and where the files are."""
    console.print(_arms(summary))
    console.print(_materials(summary))
    console.print(_differences(summary))
    lines = [
        f"held-out loss, mean over {summary.held_out} examples and over seeds; {summary.steps} steps of "
        f"{summary.batch_size} samples at a learning rate of {summary.learning_rate:g}",
        "difference: below zero is better; 95 %: bootstrap over seeds and examples; p: paired t-test over seeds",
        f"every point is in {folder.location}/study.csv, all figures in summary.json, the curves in study.png and .svg",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _arms(summary: StudySummary) -> Table:
    table = Table(title=f"{summary.run}: what each arm learnt", title_justify="left")
    table.add_column("arm")
    for column in ("loss", "over seeds", "loss a token", "token accuracy"):
        table.add_column(column, justify="right")
    before = summary.untrained
    table.add_row("no training", f"{before.loss:.4f}", "", f"{before.token_loss:.4f}", f"{before.accuracy:.2%}")
    for arm in summary.arms:
        end = arm.end
        table.add_row(
            arm.arm, f"{end.loss:.4f}", f"± {end.loss_std:.4f}", f"{end.token_loss:.4f}", f"{end.accuracy:.2%}"
        )
    return table


def _materials(summary: StudySummary) -> Table:
    table = Table(title="from what: mean tokens of a sample, of its answers, and their median", title_justify="left")
    table.add_column("arm")
    for column in ("samples", "tokens", "answer", "median", "of selected"):
        table.add_column(column, justify="right")
    for arm in summary.arms:
        found = arm.material
        shared = "" if found.of_selected is None else f"{found.of_selected:.0%}"
        lengths = (f"{found.tokens:.0f}", f"{found.label_tokens:.0f}", f"{found.median_label_tokens:.0f}")
        table.add_row(arm.arm, f"{found.samples:.0f}", *lengths, shared)
    return table


def _differences(summary: StudySummary) -> Table:
    base = BASELINE if any(arm.arm == BASELINE for arm in summary.arms) else "none"
    table = Table(title="differences at the end", title_justify="left")
    for column in ("arm", "against", "difference", "95 %", "p", "seeds better"):
        table.add_column(column, justify="left" if column in ("arm", "against") else "right")
    for arm in summary.arms:
        for other in _shown(arm, base):
            table.add_row(arm.arm, "no training" if other == "none" else other, *_cells(arm.against[other]))
    return table


def _shown(arm: ArmResult, base: str) -> list[str]:
    """Return what an arm is set against: no training and the baseline; the selected one against every other."""
    return [name for name in arm.against if name in ("none", base) or arm.arm == SELECTED]


def _cells(found: Difference) -> tuple[str, ...]:
    p = "" if found.p is None else f"{found.p:.3g}"
    return (f"{found.mean:+.4f}", f"{found.low:+.4f} .. {found.high:+.4f}", p, f"{found.better} of {found.seeds}")


def with_selection(config: RunConfig, run: RunFolder) -> RunConfig:
    """Return the settings of a study of a finished run. Raises RunFolderError where there is no selection to judge."""
    if run.verb != "select":
        raise RunFolderError(
            f"{run.location} was begun by `clusterucb {run.verb}`: give the folder of a finished `clusterucb select`"
        )
    if not run.finished:
        raise RunFolderError(f"{run.location} is not finished: `clusterucb resume {run.location}` first")
    run.take_over()
    files = {SELECTED: str(run.selection_file), **config.study.files}
    return config.model_copy(update={"study": config.study.model_copy(update={"files": files})})
