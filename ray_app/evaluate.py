"""The driver of an evaluation: which model, where, and how the result is shown."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from actors.trials import evaluate_on_device
from clusterucb.config import RunConfig
from clusterucb.errors import RunFolderError, Stopped
from clusterucb.evaluation.judged import Measure
from clusterucb.evaluation.preparation import prepare_evaluation
from clusterucb.evaluation.summary import EvaluationSummary, Matches
from clusterucb.run.events import Note
from clusterucb.run.run_folder import RunFolder
from ray_app.cluster import connected
from ray_app.devices import DeviceTask, run_on_devices
from ray_app.select import stoppable
from ray_app.train import keeping
from ray_app.views import View


def evaluate(config: RunConfig, folder: RunFolder, address: str, view: View) -> EvaluationSummary:
    """Judge the configuration's model in `folder`; a finished folder answers at once."""
    if folder.remote is not None:
        raise RunFolderError(f"{folder.location} is a URL: an evaluation needs a path that all nodes share")
    if folder.finished:
        folder.start(config, "evaluate")  # refuses other settings
        return read_evaluation(folder)
    with view, stoppable() as stop:
        for note in prepare_evaluation(config, folder, view.reading):
            view(Note(text=note))
        with keeping(folder, "evaluation"), connected(address):
            try:
                task = DeviceTask(evaluate_on_device, folder.location, folder)
                run_on_devices([task], config.workers, lambda _, event: view(event), stop.is_set)
            except Stopped:
                raise Stopped(
                    f"stopped; what was judged is kept: `clusterucb resume {folder.location}` goes on"
                ) from None
    return read_evaluation(folder)


def read_evaluation(folder: RunFolder) -> EvaluationSummary:
    """Return the summary of a finished evaluation."""
    return EvaluationSummary.model_validate_json(folder.summary_file.read_bytes())


def print_evaluation(summary: EvaluationSummary, folder: RunFolder, console: Console) -> None:
    """Print what was measured."""
    named = "no adapter" if summary.adapter is None else summary.adapter
    table = Table(title=f"{summary.base}, {named}", title_justify="left")
    table.add_column("examples of")
    for column in ("count", "loss", "loss a token", "token accuracy", "exact match"):
        table.add_column(column, justify="right")
    for name, measured in summary.subtasks.items():
        table.add_row(name, *_cells(measured, summary.exact_match_by_subtask.get(name)))
    table.add_row("all", *_cells(summary.held_out, summary.exact_match))
    console.print(table)
    if summary.harness is not None:
        tasks = Table(title="lm-evaluation-harness", title_justify="left")
        for column in ("task", "measure", "value"):
            tasks.add_column(column)
        for task, measures in summary.harness.items():
            for name, value in measures.items():
                tasks.add_row(task, name, f"{value:.4f}")
        console.print(tasks)
    lines = ["loss: mean over examples of their own mean; loss a token: mean over all label tokens"]
    if summary.exact_match is not None:
        found = summary.exact_match
        lines.append(
            f"exact match: {found.right} of {found.examples} right (95 %: {found.low:.1%} to {found.high:.1%}), "
            f"{found.without_answer} without an answer; answers in {folder.location}/answers.jsonl"
        )
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _cells(measured: Measure, found: Matches | None) -> tuple[str, ...]:
    return (
        str(measured.examples),
        f"{measured.loss:.4f}",
        f"{measured.token_loss:.4f}",
        f"{measured.accuracy:.2%}",
        "" if found is None else f"{found.share:.1%} of {found.examples}",
    )


def adapter_of(run: RunFolder) -> str | None:
    """Return the adapter that a run ended with; of a selection, the one whose gradients were taken."""
    place = {"run": run.path / "adapter", "warmup": run.path / "checkpoint"}.get(run.verb)
    if place is None:
        return run.read_config().model.adapter
    if not Path(place).exists():
        raise RunFolderError(f"{run.location} has no {place.name} yet: finish it with `clusterucb resume` first")
    return str(place)
