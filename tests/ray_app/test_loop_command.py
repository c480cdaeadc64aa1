"""Warm-up and loop through Ray: stopped, looked at and gone on with, they end in the bytes of one process.

The cluster has one CPU, and a gradient worker asks for as much as a rank does: they can only take turns.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selection_cases import result_of
from small_ray import small_ray
from training_cases import files_of, training_config
from typer.testing import CliRunner

from clusterucb.errors import RunFolderError, Stopped
from clusterucb.loop.in_process import loop_in_process
from clusterucb.run.run_folder import RunFolder
from ray_app.cli import app
from ray_app.cluster import LOCAL
from ray_app.loop import heeding, run_loop
from ray_app.run_report import make_report
from ray_app.status import follow, read_status, request_cancel
from ray_app.train import warmup
from ray_app.views import LineView


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with small_ray(1):
        yield


def when(ready: Callable[[], bool], timeout_s: float = 120) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


def shown(*words: str) -> str:
    ran = CliRunner().invoke(app, list(words))
    assert ran.exit_code == 0, ran.output
    return ran.output.replace("\n", "")


@pytest.mark.ray
@pytest.mark.slow
def test_a_loop_stops_when_asked_goes_on_and_ends_in_the_bytes_of_one_process(local_ray, tmp_path: Path):
    config = training_config(
        tmp_path, "warmup.share=0.3", "selection.share=0.1", "audit.samples=8", "loop.periods=1", "workers.count=1",
        "workers.num_cpus=1", rows=96,
    )  # fmt: skip
    alone, folder = RunFolder(tmp_path / "alone" / "run"), RunFolder(tmp_path / "run")
    loop_in_process(config, alone, lambda event: None)

    def cancel() -> None:
        when(lambda: b"warm-up: training" in folder.read_events(0))
        request_cancel(folder.path)

    stopper = threading.Thread(target=cancel)
    stopper.start()
    with pytest.raises(Stopped, match="clusterucb resume"):
        run_loop(config, folder, LOCAL, "quiet")
    stopper.join()
    assert not (folder.path / "training-1").exists()
    status = read_status(folder.path)
    assert status.state == "cancelled"
    assert [stage.stage for stage in status.stages] == ["warm-up: training"]
    assert "0 of 1 periods are over" in make_report(folder.path).read_text()

    run_loop(config, folder, LOCAL, "quiet")
    assert result_of(RunFolder(folder.path / "period-1")) == result_of(RunFolder(alone.path / "period-1"))
    for checkpoint in ("warmup/checkpoint", "training-1/checkpoint", "adapter"):
        assert files_of(folder.path / checkpoint) == files_of(alone.path / checkpoint)

    status = read_status(folder.path)
    assert status.state == "finished"
    stages = ["warm-up: training", "period 1: target", "period 1: pool", "period 1: training"]
    assert [stage.stage for stage in status.stages] == stages
    assert all(stage.finished and stage.done == stage.total for stage in status.stages)
    words = shown("status", str(folder.path))
    assert "run: finished" in words
    assert f"report: {folder.path}/report.html" in words
    assert f"report: {folder.path}/period-1/report.html" in words
    page = folder.report_file.read_text()
    assert '<a href="period-1/report.html">' in page
    assert shown("report", str(folder.path)) == str(folder.report_file)
    assert folder.report_file.read_text() == page, "it is a function of the folder"
    lines: list[str] = []
    follow(folder.path, LineView(lines.append))
    assert len(lines) == len(folder.events_file.read_text().splitlines())
    with pytest.raises(RunFolderError, match="is a training and has no report"):
        make_report(folder.path / "warmup")
    with pytest.raises(RunFolderError, match="is finished"):
        request_cancel(folder.path)
    again = warmup(config, RunFolder(folder.path / "warmup"), LOCAL, LineView(None))
    assert again.checkpoints == ("checkpoint",), "a finished warm-up answers at once"


def test_a_request_to_stop_a_loop_reaches_the_stage_at_work_and_no_stage_begins_after_it(tmp_path: Path):
    loop, stage = RunFolder(tmp_path), RunFolder(tmp_path / "period-1")
    for folder in (loop, stage):
        folder.state.mkdir(parents=True)
    with heeding(loop, stage):
        assert not stage.cancel_requested
        loop.request_cancel()
        when(lambda: stage.cancel_requested)
        stage.clear_cancel()  # as a stage does that begins
        when(lambda: stage.cancel_requested)
    with pytest.raises(Stopped), heeding(loop, stage):
        pytest.fail("it began")
    stage.summary_file.touch()
    with heeding(loop, stage):
        pass  # what is over only answers
