"""The report of a run, made when somebody asks for it."""

from pathlib import Path

from clusterucb.run.disk import write_atomically
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.view.read import read_view
from clusterucb.run.view.report import render, write_report


def make_report(run: str | Path, out: Path | None = None) -> Path:
    """Write the report of a run as it stands, and return where it is on this machine."""
    folder = RunFolder.open(run)
    view = read_view(folder, texts=True)
    if out is not None:
        write_atomically(out.resolve(), render(view))
        return out.resolve()
    write_report(folder, view)
    return folder.report_file
