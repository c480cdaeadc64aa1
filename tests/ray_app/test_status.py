"""What a folder tells of its run, and how events are shown: no cluster is asked."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from selection_cases import config_of, small_selection

from clusterucb.errors import RunFolderError
from clusterucb.run.events import (
    Cancelled,
    EventLog,
    Failed,
    Finished,
    Note,
    Progressed,
    StageFinished,
    StageStarted,
    Started,
)
from clusterucb.run.in_process import run_in_process
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import read_summary
from ray_app.report import print_summary
from ray_app.status import follow, print_status, read_status, request_cancel
from ray_app.views import BarView, LineView


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    place = tmp_path_factory.mktemp("status")
    config = config_of(small_selection(place))
    folder = RunFolder(place / "run")
    prepare(config, folder, lambda what, rows: None)
    events = EventLog(folder.events_file, lambda: 1.0)
    events(Started(run="run", resumed=False, workers=1))
    run_in_process(config, folder, events)
    events.close()
    return folder


def shown() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=120, force_terminal=True, color_system=None), out


def test_the_status_counts_what_the_run_did(folder: RunFolder):
    status = read_status(folder.path)
    assert status.state == "finished"
    assert {stage.stage: (stage.done, stage.total, stage.finished) for stage in status.stages} == {
        "target": (8, 8, True), "features": (160, 160, True), "search": (64, 64, True), "audit": (32, 32, True),
    }  # fmt: skip
    console, out = shown()
    print_status(status, console)
    assert "run: finished" in out.getvalue()


def test_watching_shows_every_event_once_and_ends_with_the_run(folder: RunFolder):
    lines: list[str] = []
    follow(folder.path, LineView(lines.append))
    kinds = [json.loads(line)["event"] for line in lines]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert len(lines) == len(folder.events_file.read_text().splitlines())


@pytest.mark.parametrize(("last", "state"), [(Cancelled(), "cancelled"), (Failed(error="out of luck"), "failed")])
def test_a_run_that_ended_early_says_so(tmp_path: Path, folder: RunFolder, last: Cancelled | Failed, state: str):
    (tmp_path / "config.json").write_text(folder.config_file.read_text())
    events = EventLog(tmp_path / "events.jsonl", lambda: 1.0)
    events(Started(run="run", resumed=False, workers=2))
    events(StageStarted(stage="search", total=10, done=2))
    events(Progressed(stage="search", samples=3, tokens=30, seconds=0.1, failed=1))
    events(last)
    events.close()
    status = read_status(tmp_path)
    assert status.state == state
    assert status.stages[0].done == 5
    assert status.error == ("out of luck" if state == "failed" else None)


def test_cancelling_leaves_a_request_unless_the_run_is_finished(tmp_path: Path, folder: RunFolder):
    with pytest.raises(RunFolderError, match="is finished"):
        request_cancel(folder.path)
    with pytest.raises(RunFolderError, match="holds no run"):
        request_cancel(tmp_path)


def test_the_bar_shows_rate_best_and_notes():
    console, out = shown()
    with BarView(console) as view:
        view(Note(text="LoRA-B is [zero]"))
        view(StageStarted(stage="search", total=4, done=0))
        view(Progressed(stage="search", samples=4, tokens=30, seconds=0.1, failed=1, best=0.25))
        view(StageFinished(stage="search"))
        view(Finished(selected=1, scored=3))
    text = out.getvalue()
    assert "note: LoRA-B is [zero]" in text
    assert "4/4" in text
    assert "best 0.250 1 failed" in text


def test_the_report_names_sources_cost_audit_and_first_rows(folder: RunFolder):
    console, out = shown()
    print_summary(read_summary(folder), folder, console)
    text = out.getvalue()
    for words in ("composition by source", "exhaustive", "selected 8 of 160", "audit: about", "peak memory", "rank"):
        assert words in text
    first = json.loads(folder.selection_file.read_text().splitlines()[0])
    assert first["clusterucb"]["id"] in text
