"""The batch script, run by bash with stand-ins for Slurm's commands: what it asks for, and what it does out of time."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from ray.scripts.scripts import cli

SCRIPT = Path(__file__).parents[2] / "cluster_configs" / "slurm" / "select.sbatch"
COMMANDS = {
    "ray": "exit 0",
    "scontrol": 'if [ "$1" = show ]; then printf "n1\\nn2\\n"; else echo "scontrol $*" >> calls; fi',
    "hostname": "echo 192.0.2.1",
    "clusterucb": 'echo "clusterucb $*" >> calls; touch stop',
    # the address, then the run: until it is asked to stop where it is to last
    "srun": """case "$*" in
      *hostname*) echo 192.0.2.1 ;;
      *) echo "srun $*" >> calls
         while [ -e lasts ] && [ ! -e stop ]; do sleep 0.05; done
         [ -e stop ] && exit 130
         exit "$(cat status)" ;;
    esac""",
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name, body in COMMANDS.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/bash\n{body}\n")
        command.chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    (tmp_path / "status").write_text("0")
    return tmp_path


def start(place: Path) -> "subprocess.Popen[str]":
    slurm = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_PER_TASK": "4",
    }
    environment = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "HOME": str(place)} | slurm
    return subprocess.Popen(["bash", str(SCRIPT), "config.yaml", "out/run"], cwd=place, env=environment, text=True)


def calls(place: Path) -> list[str]:
    return (place / "calls").read_text().splitlines() if (place / "calls").exists() else []


def test_ray_starts_on_every_node_and_the_run_once(place: Path):
    assert start(place).wait(30) == 0
    (call,) = calls(place)
    assert "--address 192.0.2.1:6379 --min-nodes 2 --num-cpus=4 --num-gpus=0" in call
    assert call.endswith("-- python -m ray_app select config.yaml --out out/run --address auto")


def test_what_fails_fails_the_job_and_is_not_queued_again(place: Path):
    (place / "status").write_text("2")
    assert start(place).wait(30) == 2
    assert len(calls(place)) == 1


def test_out_of_time_the_run_is_asked_to_stop_and_the_job_queued_again(place: Path):
    (place / "lasts").touch()
    job = start(place)
    deadline = time.monotonic() + 30
    while not calls(place):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 130
    assert calls(place)[1:] == ["clusterucb cancel out/run", "scontrol requeue 7"]


def test_every_option_exists():
    command = re.search(r"ray symmetric-run (.*?) \\\n\s+-- ", SCRIPT.read_text(), re.DOTALL)
    assert command is not None
    used = set(re.findall(r"--[a-z-]+", command[1]))
    helps = [CliRunner().invoke(cli, [name, "--help"]).output for name in ("symmetric-run", "start")]
    own, passed_on = (set(re.findall(r"^\s+(--[a-z-]+)", text, re.MULTILINE)) for text in helps)
    assert {"--address", "--min-nodes"} <= own & used
    assert used <= own | passed_on
    assert not used & {"--head", "--node-ip-address", "--port", "--block"}  # which symmetric-run refuses
