"""Runs as Ray Jobs: checked before they are sent, followed, stopped in the middle, and resumed to the same bytes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import yaml
from ray.job_submission import JobDetails
from selection_cases import config_of, result_of, run_here, small_selection

from clusterucb.errors import ConfigError, ResourceError, Stopped
from clusterucb.run.run_folder import RunFolder
from ray_app.jobs import RUN, Jobs, Room, exit_code, of_run
from ray_app.runtime_env import load_runtime_env
from ray_app.status import read_status
from ray_app.submit import Submission, Submitted, cancel, check, room_of, run, submit

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def submission(folder: Path, settings: dict[str, object]) -> Submission:
    """Ask for a run in `folder`/runs/mine, from a working directory that holds nothing but the configuration."""
    home = folder / "home"
    home.mkdir()
    (home / "config.yaml").write_text(yaml.safe_dump(settings))
    return Submission(home / "config.yaml", (), str(folder / "runs" / "mine"), "mine", home, None, Room())


# What is refused before anything is sent


@pytest.fixture
def asked(tmp_path: Path) -> Submission:
    return submission(
        tmp_path, {"pool": {"path": "/shared/pool"}, "target": {"path": "/t"}, "model": {"base": "some/hub-id"}}
    )


def test_what_lies_on_the_cluster_need_not_lie_here(asked: Submission):
    check(asked)
    check(replace(asked, out="s3://bucket/runs/mine"))


def test_a_relative_run_folder_would_be_lost(asked: Submission):
    with pytest.raises(ConfigError, match="--out runs/mine would lie in the job's copy"):
        check(replace(asked, out="runs/mine"))


def test_a_configuration_travels_with_the_working_directory(asked: Submission, tmp_path: Path):
    (tmp_path / "other").mkdir()
    with pytest.raises(ConfigError, match="lies outside the working directory"):
        check(replace(asked, working_dir=tmp_path / "other"))
    with pytest.raises(ConfigError, match="is no folder"):
        check(replace(asked, working_dir=tmp_path / "nowhere"))


def test_a_mistake_in_the_configuration_is_found_here(asked: Submission):
    with pytest.raises(ConfigError, match="did you mean 'budget'"):
        check(replace(asked, overrides=("search.budgett=0.1",)))


def test_data_do_not_travel(asked: Submission):
    (asked.working_dir / "examples.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"target\.path \(examples\.jsonl\) lies in the working directory"):
        check(replace(asked, overrides=("target.path=examples.jsonl",)))
    check(replace(asked, overrides=(f"target.path={asked.working_dir.resolve() / 'examples.jsonl'}",)))


@pytest.mark.parametrize("run_id", ["", "a b", "a/b", "-a", "é"])
def test_a_run_id_must_name_a_job(asked: Submission, run_id: str):
    with pytest.raises(ConfigError, match="cannot name a job"):
        check(replace(asked, run_id=run_id))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("envvars: {}", "did you mean 'env_vars'"),
        ("env_vars: {A: 1}", "env_vars"),
        ("working_dir: .", "give it with --working-dir"),
        ("- a", "holds no mapping"),
        ("a: [", "is not readable YAML"),
    ],
)
def test_a_mistake_in_the_runtime_environment_is_found_here(asked: Submission, tmp_path: Path, text: str, words: str):
    (tmp_path / "env.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        check(replace(asked, runtime_env=tmp_path / "env.yaml"))


def test_the_runtime_environment_of_the_working_directory_is_the_default():
    fields = load_runtime_env(None, ROOT)
    assert fields["working_dir"] == str(ROOT)
    assert fields == load_runtime_env(ROOT / "cluster_configs" / "runtime_env.yaml", ROOT)
    assert set(fields) == {"env_vars", "excludes", "working_dir"}
    assert load_runtime_env(None, ROOT / "tests") == {"working_dir": str(ROOT / "tests")}


def test_resources_are_names_and_amounts():
    assert room_of(1.0, None, 2.0, ("fast=0.5",)) == Room(1.0, None, 2.0, (("fast", 0.5),))
    with pytest.raises(ConfigError, match="NAME=AMOUNT"):
        room_of(None, None, None, ("fast",))


# What an ended job means


def ended(status: str, code: int | None = None, job_id: str = "mine", **fields: object) -> JobDetails:
    return JobDetails.model_validate(
        {"type": "SUBMISSION", "submission_id": job_id, "status": status, "entrypoint": "", "driver_exit_code": code}
        | fields
    )


@pytest.mark.parametrize(("code", "shown"), [(2, 2), (130, 130), (1, 1), (-9, 137)])
def test_the_exit_code_of_a_failed_job_is_its_drivers(code: int, shown: int):
    assert exit_code(ended("FAILED", code)) == shown


def test_the_exit_code_of_other_jobs():
    assert exit_code(ended("SUCCEEDED", 0)) == 0
    with pytest.raises(Stopped, match="submitting again goes on"):
        exit_code(ended("STOPPED"))
    with pytest.raises(ResourceError, match="failed on the cluster: no room"):
        exit_code(ended("FAILED", message="no\nroom"))


def test_a_job_belongs_to_the_run_that_it_names():
    first, second = ended("FAILED", 2, metadata={RUN: "mine"}), ended("FAILED", 2, "mine-2", metadata={RUN: "mine"})
    plain = ended("FAILED", 2, "other")
    jobs = [first, second, plain]
    assert of_run(jobs, "mine") == [first, second]
    assert of_run(jobs, "mine-2") == []
    assert of_run(jobs, "other") == [plain]


@pytest.mark.parametrize("address", ["head:6379", "auto", "ray://head:10001", "http://"])
def test_an_address_is_the_dashboards(address: str):
    with pytest.raises(ResourceError, match="is no dashboard"):
        Jobs(address)


# A real cluster


@dataclass(frozen=True)
class Head:
    """A Ray head with dashboard and token, on loopback."""

    address: str
    temp: Path


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def when(condition: Callable[[], bool], timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH"):
            patch.delenv(name, raising=False)
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")  # a job runs the head's `python`
        yield patch


@pytest.fixture(scope="module")
def head(environment: pytest.MonkeyPatch) -> Iterator[Head]:
    port, dashboard, client = free_ports(3)
    temp = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets lie in it: their paths must stay short
    address = f"http://127.0.0.1:{dashboard}"
    log = (temp / "head.log").open("w")
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        "--dashboard-agent-listen-port=0", f"--ray-client-server-port={client}", "--num-cpus=2",
        f"--object-store-memory={2**27}", f"--temp-dir={temp}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def answers() -> bool:
        assert process.poll() is None, (temp / "head.log").read_text()
        try:
            return Jobs(address).known() == []
        except ResourceError:
            return False

    try:
        when(answers)
        yield Head(address, temp)
    finally:
        processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(processes, timeout=20)
        for each in alive:
            each.kill()
        process.wait()
        log.close()
        shutil.rmtree(temp, ignore_errors=True)


def command_line(*words: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ray_app", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def progress(folder: RunFolder, stage: str) -> int:
    """Return how many micro-batches of a stage are done."""
    if not folder.events_file.exists():
        return 0
    events = [json.loads(line) for line in folder.events_file.read_text().splitlines() if line.endswith("}")]
    return sum(event["event"] == "progressed" and event["stage"] == stage for event in events)


@pytest.mark.ray
def test_what_the_dashboard_refuses_is_one_line(head: Head, asked: Submission, monkeypatch: pytest.MonkeyPatch):
    (closed,) = free_ports(1)
    with pytest.raises(ResourceError, match="no Ray dashboard answers at"):
        Jobs(f"http://127.0.0.1:{closed}")
    with pytest.raises(ResourceError, match="no job of run mine is running"):
        cancel("mine", head.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef0123456789abcdef")
    with pytest.raises(ResourceError, match="refuses the token"):
        Jobs(head.address)
    words = ["submit", str(asked.config), "--out", asked.out, "--working-dir", str(asked.working_dir)]
    tokenless = command_line(*words, "--address", head.address, env=os.environ | {"RAY_AUTH_MODE": "disabled"})
    output, _ = tokenless.communicate(timeout=60)
    assert tokenless.returncode == 2
    assert output.startswith(f"error: the dashboard at {head.address} asks for a token")
    assert len(output.splitlines()) == 1


@pytest.mark.ray
@pytest.mark.timeout(600)  # two jobs, each of which imports torch three times
def test_a_run_stopped_in_the_middle_gives_the_bytes_of_an_undisturbed_one(
    head: Head, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    settings = small_selection(tmp_path, rows=800)
    settings |= {"search": {"budget": 0.5, "rounds": {"first": 4}}}
    asked = submission(tmp_path, settings)
    folder = RunFolder(Path(asked.out))
    jobs = Jobs(head.address)

    # A job that took the run's name, and was stopped before it came to anything.
    jobs.send("sleep 300", "mine", {RUN: "mine"}, {}, Room())
    with pytest.raises(ResourceError, match="mine already exists"):
        jobs.send("true", "mine", {}, {}, Room())
    assert cancel("mine", head.address) == "mine"
    with pytest.raises(Stopped, match="job mine was stopped"):
        jobs.follow("mine", lambda text: None, print)

    # Ray's own command, from the repository.
    plain = subprocess.Popen(
        [BIN / "ray", "job", "submit", "--address", head.address, "--submission-id", "plain", "--working-dir", ".",
         "--runtime-env", "cluster_configs/runtime_env.yaml", "--",
         "python", "-m", "ray_app", "select", str(asked.config), "--out", asked.out],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    when(lambda: progress(folder, "search") > 0)
    assert cancel("plain", head.address) == "plain"
    output, _ = plain.communicate(timeout=60)
    assert "Job 'plain' was stopped" in output
    when(lambda: read_status(folder.path).state == "cancelled")  # at once, or soon where Ray's 3 s were over first
    assert not folder.finished
    (sent,) = (head.temp / "session_latest").glob("runtime_resources/working_dir_files/*/ray_app")
    copy = sent.parent
    assert not [name for name in (".git", ".venv", "runs", "tests", "docs", "__pycache__") if (copy / name).exists()]
    assert sum(file.stat().st_size for file in copy.rglob("*")) < 5 * 2**20

    # The verb: a second submission joins; Ctrl-C ends the following, not the job.
    check(asked)
    assert submit(asked, jobs) == Submitted("mine-2", joined=False)
    assert submit(asked, jobs) == Submitted("mine-2", joined=True)
    with pytest.raises(ResourceError, match="with another configuration or folder"):
        submit(replace(asked, overrides=("seed=3",)), jobs)
    words = ["submit", str(asked.config), "--out", asked.out, "--working-dir", str(asked.working_dir)]
    follower = command_line(*words, "--address", head.address)
    assert follower.stdout is not None
    output = ""
    while "resuming mine" not in output:
        output += follower.stdout.readline()
        assert follower.poll() is None, output
    follower.send_signal(signal.SIGINT)
    output += follower.communicate(timeout=30)[0]
    assert follower.returncode == 130, output
    assert "following job mine-2" in output
    assert "no longer following job mine-2, which goes on" in output
    assert "Traceback" not in output
    capfd.readouterr()
    assert run(asked, head.address, follow=True) == 0
    said = capfd.readouterr()
    assert "following job mine-2" in said.err
    assert "resuming mine" in said.out
    rows = [json.loads(line)["messages"] for line in (tmp_path / "pool.jsonl").read_text().splitlines()]
    distinct = len({json.dumps(messages) for messages in rows})  # exact copies are no part of the pool
    assert f"selected {distinct // 20} of {distinct} usable samples" in said.out
    expected = result_of(run_here(config_of(settings), tmp_path / "expected"))
    assert result_of(folder) == expected
