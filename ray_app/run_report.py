"""The report of a run, made when somebody asks for it."""

from pathlib import Path

from clusterucb.errors import RunFolderError
from clusterucb.loop.periods import LoopFolders
from clusterucb.loop.report import render_loop, write_loop_report
from clusterucb.run.disk import write_atomically
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.view.read import read_view
from clusterucb.run.view.report import render, write_report


def make_report(run: str | Path, out: Path | None = None) -> Path:
    """Write the report of a run as it stands, and return where it is on this machine.

    That of a loop leads to those of its selections, which are made too where there is none yet.
    """
    folder = RunFolder.open(run)
    match folder.verb:
        case "select":
            return _report_of_selection(folder, out)
        case "run":
            return _report_of_loop(folder, out)
        case "warmup":
            raise RunFolderError(
                f"{folder.location} is a training and has no report: `clusterucb status {folder.location}` says how "
                "far it is, and training.json in its checkpoint has every step's loss"
            )
        case "evaluate" | "study":
            raise RunFolderError(
                f"{folder.location} was begun by `clusterucb {folder.verb}` and has no report: what it found is in "
                "its summary.json, which the same command shows again, and a study's curves are in study.png"
            )


def _report_of_selection(folder: RunFolder, out: Path | None) -> Path:
    view = read_view(folder, texts=True)
    if out is not None:
        write_atomically(out.resolve(), render(view))
        return out.resolve()
    write_report(folder, view)
    return folder.report_file


def _report_of_loop(folder: RunFolder, out: Path | None) -> Path:
    for selection in LoopFolders(folder.path).begun_selections():
        if not selection.finished:
            _report_of_selection(selection, None)
    if out is not None:
        write_atomically(out.resolve(), render_loop(folder))
        return out.resolve()
    return write_loop_report(folder)
