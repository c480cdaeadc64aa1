"""Selections on a cluster whose parts are killed at random, and what is left of them.

    python tests/chaos.py --runs 6 --faults 60 --seed 0 [--wishes]

A real local Ray cluster of two raylets or more; drivers are command lines of their own. While a run is at work, faults
come one after the other: kill -9 of a worker, of the coordinator, of the driver, of a raylet, of the head; SIGSTOP
of a worker; a disk that takes no more; samples that end every process that touches them. Each run must end with the
bytes of an undisturbed one. Printed: faults survived, gradients taken twice, rows lost.
"""

import argparse
import json
import logging
import os
import random
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback only
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import psutil
import pyarrow.parquet as pq
import yaml
from chaos_oracle import first_draws, results_of, undisturbed, wished
from ray.cluster_utils import Cluster
from selection_cases import config_of, run_here, small_selection

from clusterucb.run.run_folder import RunFolder

logging.getLogger("ray").setLevel(logging.ERROR)

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 0.15
"""What the gradients of a micro-batch take beside their own time, so that there is a middle to strike in."""
_NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 2**27}
_QUICK_DEATH = {"health_check_period_ms": 1000, "health_check_timeout_ms": 3000, "health_check_failure_threshold": 3}


class Chaos:
    """A cluster of two nodes, the selection that runs on it, and the means to break them."""

    def __init__(self, folder: Path, poison: int, rows: int, changes: dict[str, object], wishes: bool) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.notes.mkdir(parents=True)
        settings = small_selection(folder, rows) | {
            "search": {"budget": 0.4, "rounds": {"first": 16}},
            "workers": {"count": 2, "heartbeat_timeout_s": 8, "attempts": 2},
            "audit": {"samples": 32},
        }
        if wishes:
            settings |= wished(folder, settings.pop("target"))
        settings |= changes
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump(settings))
        scout = run_here(config_of(settings), folder / "scout")
        self.scouted = results_of(scout)
        self.poison = first_draws(scout)[::7][:poison]
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "faults"), str(ROOT)]),
            "CHAOS_NOTES": str(self.notes),
            "CHAOS_SECONDS": str(SECONDS),
            "CHAOS_POISON": ",".join(name.rpartition("/")[2] for name in self.poison),
        }
        self._cluster: Cluster | None = None

    def start(self, second: bool = True) -> None:
        """Start a head and, unless it shall come later, a second node."""
        with self._surroundings():
            head = _NODE | {"include_dashboard": False, "_system_config": _QUICK_DEATH}
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        if second:
            self.add_a_node()

    def add_a_node(self) -> None:
        """Add a node."""
        assert self._cluster is not None
        with self._surroundings():
            self._cluster.add_node(**_NODE)

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """Let nodes start in the environment of the fault injection: it goes on to their workers."""
        before = dict(os.environ)
        os.environ |= self._environment
        try:
            yield
        finally:
            os.environ.clear()
            os.environ |= before

    def stop(self) -> None:
        """End the cluster and what it started."""
        if self._cluster is not None:
            family = psutil.Process().children(recursive=True)
            self._cluster.shutdown()
            for process in psutil.wait_procs(family, timeout=10)[1]:
                process.kill()
            self._cluster = None

    def drive(self, run: Path) -> "subprocess.Popen[str]":
        """Start a driver."""
        assert self._cluster is not None
        command = [sys.executable, "-m", "ray_app", "select", str(self.config), "--out", str(run), "--quiet"]
        return subprocess.Popen(
            [*command, "--address", self._cluster.address],
            env=self._environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the living Ray processes whose title starts so, the longest-lived first."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(f"ray::{title}") and process.status() != "zombie":
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda process: process.create_time())

    def kill_a_node(self) -> None:
        """Kill the raylet of a node that is not the head, and with it all that runs there."""
        assert self._cluster is not None
        node = next(iter(self._cluster.worker_nodes))
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        family = raylet.children(recursive=True)
        raylet.kill()
        for process in family:  # a machine that goes takes its processes along
            if process.is_running():
                process.kill()
        self._cluster.worker_nodes.discard(node)

    def kill_the_head(self) -> None:
        """Kill everything, as a power cut does, and start a new cluster."""
        family = psutil.Process().children(recursive=True)
        for process in family:
            if process.is_running():
                process.kill()
        psutil.wait_procs(family, timeout=10)
        self._cluster = None
        self.start()

    def computed(self) -> Counter[int]:
        """Count how often each sample's gradient was taken."""
        return Counter(int(line) for file in self.notes.iterdir() for line in file.read_text().splitlines())

    def forget(self) -> None:
        """Begin to count anew."""
        for file in self.notes.iterdir():
            file.unlink()


@dataclass
class Run:
    """A selection on its way; drivers come and go."""

    chaos: Chaos
    path: Path
    driver: "subprocess.Popen[str] | None" = None
    endings: list[str] = field(default_factory=list)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    def progress(self) -> int:
        """Return how many micro-batches of gradients were told so far."""
        if not self.folder.events_file.exists():
            return 0
        lines = self.folder.events_file.read_text().splitlines()
        events = [json.loads(line) for line in lines if line.endswith("}")]
        return sum(event["event"] == "progressed" and event["stage"] in ("search", "audit") for event in events)

    def ensure_driver(self) -> None:
        """Start the driver where none is at work; what an earlier one said is kept."""
        if self.driver is not None and self.driver.poll() is not None:
            self.endings.append(self.driver.communicate()[0])
            self.driver = None
        if self.driver is None and not self.folder.finished:
            self.driver = self.chaos.drive(self.path)

    def wait(self, until: Callable[[], bool], timeout_s: float = 300) -> bool:
        """Wait for a condition, with a driver at work; False where the run ended before."""
        deadline = time.monotonic() + timeout_s
        while not until():
            if self.folder.finished:
                return False
            assert time.monotonic() < deadline, f"nothing happened for {timeout_s} s: {self.endings[-1:]}"
            self.ensure_driver()
            time.sleep(0.02)
        return True


def kill_worker(run: Run) -> bool:
    """End a worker that is at work."""
    return _signal(run.chaos.processes("GradientWorker"), signal.SIGKILL)


def stop_worker(run: Run) -> bool:
    """Freeze a worker; nothing tells Ray."""
    return _signal(run.chaos.processes("GradientWorker"), signal.SIGSTOP)


def kill_coordinator(run: Run) -> bool:
    """End the coordinator in the middle of whatever it does."""
    return _signal(run.chaos.processes("Coordinator"), signal.SIGKILL)


def kill_driver(run: Run) -> bool:
    """End the driver; on a cluster the run goes on without it."""
    if run.driver is None or run.driver.poll() is not None:
        return False
    run.driver.kill()
    return True


def kill_node(run: Run) -> bool:
    """End a machine; another comes."""
    run.chaos.kill_a_node()
    run.chaos.add_a_node()
    return True


def kill_head(run: Run) -> bool:
    """End the cluster."""
    run.chaos.kill_the_head()
    return True


def fill_disk(run: Run) -> bool:
    """Let the coordinator's files grow no further; the run ends with an error and is started again with room."""
    coordinators = run.chaos.processes("Coordinator")
    if not coordinators or run.driver is None:
        return False
    largest = max((file.stat().st_size for file in run.path.rglob("*") if file.is_file()), default=0)
    try:
        resource.prlimit(coordinators[0].pid, resource.RLIMIT_FSIZE, (max(largest, 4096), resource.RLIM_INFINITY))
    except ProcessLookupError:
        return False
    driver = run.driver
    if not run.wait(lambda: driver.poll() is not None):
        return False
    said = driver.communicate()[0]
    run.driver = None
    assert driver.returncode == 2, said
    assert "clusterucb resume" in said, said
    return True


def _signal(processes: list[psutil.Process], number: int) -> bool:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue
        return True
    return False


FAULTS: dict[str, tuple[Callable[[Run], bool], int]] = {
    "worker killed": (kill_worker, 6),
    "worker frozen": (stop_worker, 3),
    "coordinator killed": (kill_coordinator, 4),
    "driver killed": (kill_driver, 3),
    "node killed": (kill_node, 2),
    "head killed": (kill_head, 1),
    "disk full": (fill_disk, 2),
}
"""What can be done to a run, and how often in relation to the others."""


def draw_faults(count: int, rng: random.Random) -> list[str]:
    """Draw what will be done to a run."""
    return rng.choices(list(FAULTS), [weight for _, weight in FAULTS.values()], k=count)


def disturb(run: Run, faults: Sequence[str], rng: random.Random) -> Counter[str]:
    """Run to the end, with these faults on the way, as long as it lasts; return those that struck."""
    struck: Counter[str] = Counter()
    for name in faults:
        more = run.progress() + rng.randint(1, 3)
        if not run.wait(lambda more=more: run.progress() >= more):
            break
        struck[name] += FAULTS[name][0](run)
    run.wait(lambda: False)
    if run.driver is not None:
        said = run.driver.communicate(timeout=120)[0]
        assert run.driver.returncode in (0, -signal.SIGKILL), said
    return struck


@dataclass(frozen=True)
class Verdict:
    """What is left of a disturbed run."""

    same_bytes: bool
    computed_twice: int
    lost: int
    rows: int


def judge(run: Run, expected: tuple[bytes, ...]) -> Verdict:
    """Hold a run that ended against the undisturbed one."""
    rows = set(pq.read_table(run.folder.scores_file).column("id").to_pylist())
    notes = run.folder.events_file.read_text()
    for name in run.chaos.poison:
        assert name not in rows
        assert f"excluded {name}: worker_lost" in notes
    wanted = run.path.parent / "expected.parquet"
    wanted.write_bytes(expected[1])
    lost = set(pq.read_table(wanted).column("id").to_pylist()) - rows
    computed = run.chaos.computed()
    return Verdict(
        same_bytes=results_of(run.folder) == expected,
        computed_twice=sum(computed.values()) - len(computed),
        lost=len(lost),
        rows=len(rows),
    )


@contextmanager
def chaos_in(
    folder: Path,
    poison: int = 0,
    rows: int = 640,
    changes: dict[str, object] | None = None,
    second: bool = True,
    wishes: bool = False,
) -> Iterator[Chaos]:
    """A cluster to be disturbed, ended at the end; `changes` replace sections of the configuration, after `wished`."""
    chaos = Chaos(folder, poison, rows, changes or {}, wishes)
    chaos.start(second)
    try:
        yield chaos
    finally:
        chaos.stop()


def main() -> None:
    """Disturb several runs and say what is left of them; exit with 1 where anything is amiss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=6, help="disturbed runs")
    parser.add_argument("--faults", type=int, default=60, help="faults over all runs, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wishes", action="store_true", help="prediction, several targets, until, caps, diversity")
    asked = parser.parse_args()
    rng, total, twice, lost, wrong = random.Random(asked.seed), Counter[str](), 0, 0, 0
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as place,
        chaos_in(Path(place) / "cluster", poison=3, wishes=asked.wishes) as chaos,
    ):
        expected = undisturbed(chaos.config, chaos.poison, Path(place) / "undisturbed" / "run")
        began, number = time.monotonic(), 0
        while number < asked.runs or total.total() < asked.faults:
            run = Run(chaos, Path(place) / f"{number}" / "run")
            run.path.parent.mkdir()
            struck = disturb(run, draw_faults(-(-asked.faults // asked.runs), rng), rng)
            verdict = judge(run, expected)
            chaos.forget()
            total += struck
            twice, lost, wrong = (
                twice + verdict.computed_twice,
                lost + verdict.lost,
                wrong + (not verdict.same_bytes),
            )
            words = ", ".join(f"{count} {name}" for name, count in struck.items()) or "nothing"
            print(
                f"run {number}: {words}; {verdict.rows} rows, {verdict.computed_twice} gradients taken twice, "
                f"{verdict.lost} rows lost, bytes {'equal' if verdict.same_bytes else 'DIFFER'}",
                flush=True,
            )
            number += 1
    print(f"\n{total.total()} faults survived in {number} runs, {time.monotonic() - began:.0f} s, seed {asked.seed}")
    for name, count in sorted(total.items()):
        print(f"  {count:3} {name}")
    print(f"{len(chaos.poison)} poison samples in every run, excluded by name")
    print(f"gradients taken twice: {twice}; rows lost: {lost}; runs with other bytes: {wrong}")
    sys.exit(bool(lost or wrong))


if __name__ == "__main__":
    main()
