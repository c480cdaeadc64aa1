"""Selections through Ray: the bytes depend on no number of workers, no crash and no stop; see test_chaos too."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from selection_cases import config_of, result_of, run_here, small_selection
from small_ray import small_ray

from actors.coordinator import CoordinatorActor
from clusterucb.errors import ClusterUCBError, Stopped
from clusterucb.run.lease import Lease
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from ray_app.cluster import LOCAL
from ray_app.select import select
from ray_app.status import read_status, request_cancel
from ray_app.views import LineView

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return small_selection(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def expected(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    return result_of(run_here(config_of(settings), tmp_path_factory.mktemp("expected") / "run"))


@pytest.fixture(scope="module")
def long_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A run of several seconds, so that an interruption meets it in the middle on any machine."""
    settings = small_selection(tmp_path_factory.mktemp("long_material"), rows=800)
    return settings | {"search": {"budget": 0.5, "rounds": {"first": 4}}}


@pytest.fixture(scope="module")
def long_expected(long_settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    return result_of(run_here(config_of(long_settings), tmp_path_factory.mktemp("long_expected") / "run"))


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with small_ray(2):
        yield


def events_of(folder: RunFolder) -> list[dict[str, object]]:
    if not folder.events_file.exists():
        return []
    return [json.loads(line) for line in folder.events_file.read_text().splitlines() if line.endswith("}")]


def when(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def searching(folder: RunFolder, jobs: int = 3) -> bool:
    return sum(e["event"] == "progressed" and e["stage"] == "search" for e in events_of(folder)) >= jobs


def worker_processes(title: str = "GradientWorker") -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(f"ray::{title}"):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_more_workers_than_fit_give_the_bytes_of_one_process(local_ray, settings, expected, tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    summary = select(config_of(settings, "workers.count=3"), folder, LOCAL, LineView(None))
    assert result_of(folder) == expected
    ready = {event["worker"] for event in events_of(folder) if event["event"] == "worker_ready"}
    assert 1 <= len(ready) <= 3, "a run starts with the first worker that is ready"
    assert 1 <= len(summary.workers) <= 3
    assert all(0.05 < worker.peak_host_gib < 4 for worker in summary.workers)
    assert read_status(folder.path).state == "finished"


def test_a_cancelled_run_says_how_to_go_on_and_does(local_ray, long_settings, long_expected, tmp_path: Path):
    folder = RunFolder(tmp_path / "run")

    def cancel() -> None:
        when(lambda: searching(folder, jobs=1))
        request_cancel(folder.path)

    stopper = threading.Thread(target=cancel)
    stopper.start()
    with pytest.raises(Stopped, match="clusterucb resume"):
        select(config_of(long_settings), folder, LOCAL, LineView(None))
    stopper.join()
    assert read_status(folder.path).state == "cancelled"
    select(config_of(long_settings, "workers.count=2"), folder, LOCAL, LineView(None))
    assert result_of(folder) == long_expected


def test_a_gang_that_loses_a_rank_is_replaced_and_scores_as_one_worker_does(
    local_ray, settings, expected, tmp_path: Path
):
    folder, place = RunFolder(tmp_path / "run"), tmp_path / "expected.parquet"
    place.write_bytes(expected[1])

    def kill_one() -> None:
        when(lambda: searching(folder, jobs=1))
        worker_processes("GangRank")[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    select(config_of(settings, "workers.shards=2"), folder, LOCAL, LineView(None))
    killer.join()
    assert any(event["event"] == "worker_lost" for event in events_of(folder))
    alone, together = (pq.read_table(path).to_pydict() for path in (place, folder.scores_file))
    assert together["id"] == alone["id"]
    assert together["influence"] == pytest.approx(alone["influence"], abs=1e-4)


def test_a_second_writer_is_refused_by_name(local_ray, settings, tmp_path: Path):
    folder, config = RunFolder(tmp_path / "run"), config_of(settings)
    prepare(config, folder, lambda what, rows: None)
    lease, over = Lease.acquire(folder, "somebody else", 30.0), threading.Event()

    def keep() -> None:
        while not over.wait(0.1):
            lease.renew()

    holder = threading.Thread(target=keep)
    holder.start()
    try:
        with pytest.raises(ClusterUCBError, match=r"is in use by somebody else .* `clusterucb cancel`"):
            select(config, folder, LOCAL, LineView(None))
    finally:
        over.set()
        holder.join()
    assert not folder.begun


def test_a_run_that_nobody_watches_stops_where_it_is_told_to_and_its_coordinator_leaves(
    local_ray, long_settings, tmp_path: Path
):
    folder = RunFolder(tmp_path / "run")
    config = config_of(long_settings, "workers.on_driver_death=stop")
    prepare(config, folder, lambda what, rows: None)
    coordinator = CoordinatorActor.options(lifetime="detached", name="unwatched", num_cpus=0).remote(
        str(folder.path), config.workers, "selection", patience_s=0.5
    )
    assert ray.get(coordinator.run.remote()).status == "cancelled"
    assert read_status(folder.path).state == "cancelled"
    assert "nobody watches this run" in folder.events_file.read_text()
    with pytest.raises(ValueError, match="unwatched"):  # Ray's word for an actor that is not there
        when(lambda: ray.get_actor("unwatched") is None, timeout_s=30)


def command_line(settings: dict[str, object], folder: Path) -> subprocess.Popen[str]:
    config = folder.parent / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    return subprocess.Popen(
        [sys.executable, "-m", "ray_app", "select", str(config), "--out", str(folder), "--quiet", "--address", "local"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_a_driver_killed_in_the_middle_is_resumed_by_running_again(long_settings, long_expected, tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    first = command_line(long_settings, folder.path)
    when(lambda: searching(folder) or first.poll() is not None)
    first.kill()
    first.wait()
    assert not folder.finished
    before = sum(event["event"] == "progressed" for event in events_of(folder))
    second = command_line(long_settings, folder.path)
    output, errors = second.communicate(timeout=240)
    assert second.returncode == 0, errors
    assert "selected 39 of 799" in output  # one row of the pool is a copy
    assert result_of(folder) == long_expected
    computed = [e for e in events_of(folder) if e["event"] == "progressed"]
    in_flight = 2 * max(e["samples"] for e in computed)
    assert sum(e["samples"] for e in computed) <= 8 + 800 + 400 + 100 + in_flight, "more ran twice than was in flight"
    assert before > 0


def test_ctrl_c_leaves_a_resumable_run_and_exit_code_130(long_settings, tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    process = command_line(long_settings, folder.path)
    when(lambda: searching(folder, jobs=1) or process.poll() is not None)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "clusterucb resume" in errors
    assert "Traceback" not in errors
