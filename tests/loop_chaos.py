"""A loop that is killed with SIGKILL in every stage, and what is left of it.

    python tests/loop_chaos.py                                  # a tiny model, every moment, three rounds
    python tests/loop_chaos.py --config cluster_configs/runs/loop_demo.yaml --rounds drivers --stages pool search

At each moment (warm-up, target sketches, gradients for the clusters, clustering, search, audit and training of every
period, final adapter, merge) somebody is killed: in the round `drivers` the command itself with the Ray it started, in
`cluster` the command alone, on a cluster where its coordinator and ranks may outlive it, and in `parts` a gradient
worker, the coordinator or a training rank. The command is then given again at once. Every round must end with the
bytes of an undisturbed loop, in selections, scores, checkpoints and summary, and leave no process behind.
"""

import argparse
import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
import yaml

logging.getLogger("ray").setLevel(logging.ERROR)

ROOT = Path(__file__).resolve().parent.parent
PAUSE_S = 0.3
"""What a task and a step of the tiny model take beside their own time, so that there is a middle to strike in."""
PERIODS = 3
SETTINGS = (
    "training.ranks=2", "training.save_every=1", "training.batch_size=4", "warmup.share=0.2",
    "search.cold_start_min=1", "selection.share=0.1", "audit.samples=8", "loop.merge=true",
    f"loop.periods={PERIODS}", "loop.warm_start.discount=0.5",
)  # fmt: skip

Event = dict[str, object]


@dataclass(frozen=True)
class Moment:
    """When to strike: once the events of a stage's folder, or its files, say that it is in the middle of something."""

    name: str
    folder: str
    reached: Callable[[list[Event], Path], bool]
    parts: tuple[str, ...] = ()
    """Titles of the processes of Ray that are at work then."""


def moments(periods: int, warm: bool = True) -> list[Moment]:
    """Return the moments of a loop in their order."""
    found = [Moment("warm-up", "warmup", at_work("training"), RANKS)] if warm else []
    for period in range(1, periods + 1):
        selection, training = f"period-{period}", f"training-{period}"
        stages = ("target", "pool") if period == 1 else ("target", "search", "audit")
        found += [Moment(f"{stage} of {selection}", selection, at_work(stage), WORKERS) for stage in stages]
        if period == 1:
            found.append(Moment(f"clustering of {selection}", selection, clustering, ("Coordinator",)))
        found.append(Moment(training, training, at_work("training"), RANKS))
    found.append(Moment("final adapter", ".", lambda _, folder: (folder / ".adapter.writing").exists()))
    found.append(Moment("merge", ".", lambda _, folder: (folder / ".merged.writing").exists()))
    return found


RANKS = ("RayTrainWorker",)
WORKERS = ("GradientWorker", "Coordinator")


def at_work(stage: str) -> Callable[[list[Event], Path], bool]:
    """Return whether a stage is in its middle."""

    def reached(events: list[Event], folder: Path) -> bool:
        own = [event for event in events if event.get("stage") == stage]
        kinds = [event["event"] for event in own]
        begun = "stage_started" in kinds
        progressed = stage == "target" or any(kind in ("progressed", "stepped") for kind in kinds)
        return begun and progressed and "stage_finished" not in kinds

    return reached


def clustering(events: list[Event], folder: Path) -> bool:
    """Return whether all gradients of a first period are there, and its clusters are not."""
    done = any(event["event"] == "stage_finished" and event["stage"] == "pool" for event in events)
    return done and not (folder / "state" / "clusters.npz").exists()


def events_of(folder: Path) -> list[Event]:
    """Return the whole lines of a stage's events."""
    file = folder / "events.jsonl"
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]


@dataclass
class Struck:
    """What happened in a round."""

    round: str
    seconds: float = 0.0
    killed: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    starts: int = 0


class Looped:
    """A loop on its way; the command comes and goes."""

    def __init__(self, command: list[str], run: Path, environment: dict[str, str]) -> None:
        self.path = run
        self.starts = 0
        self._command = command
        self._environment = environment
        self._driver: subprocess.Popen[str] | None = None
        self._family: dict[int, psutil.Process] = {}

    @property
    def over(self) -> bool:
        return (self.path / "summary.json").exists()

    def wait(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a condition with a command at work; False where the loop ended before."""
        deadline = time.monotonic() + timeout_s
        while not until():
            if self.over:
                return False
            assert time.monotonic() < deadline, f"nothing happened for {timeout_s:.0f} s at {self.path}"
            self._ensure()
            time.sleep(0.01)
        return True

    def kill_command(self) -> bool:
        """End the command; what it started is not touched."""
        driver = self._driver
        if driver is None or driver.poll() is not None:
            return False
        self._remember()
        driver.kill()
        driver.wait()
        self._driver = None
        return True

    def kill_part(self, title: str) -> bool:
        """End a process of Ray by its title."""
        for process in psutil.Process().children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(f"ray::{title}") and process.status() != "zombie":
                    process.kill()
                    return True
            except psutil.NoSuchProcess:
                continue
        return False

    def finish(self, timeout_s: float) -> None:
        """Let the loop go to its end, and the command too."""
        self.wait(lambda: self.over, timeout_s)
        if self._driver is not None:
            said = self._driver.communicate(timeout=timeout_s)[0]
            assert self._driver.returncode == 0, said

    def left_behind(self, timeout_s: float = 60) -> list[str]:
        """Return the processes of killed commands that are still there after a while."""
        _, alive = psutil.wait_procs(list(self._family.values()), timeout=timeout_s)
        return [" ".join(process.cmdline())[:120] for process in alive if process.is_running()]

    def _ensure(self) -> None:
        if self._driver is not None and self._driver.poll() is not None:
            said = self._driver.communicate()[0]
            assert self._driver.returncode == 0, f"the command ended with {self._driver.returncode}:\n{said[-3000:]}"
            self._driver = None
        if self._driver is None and not self.over:
            self.starts += 1
            self._driver = subprocess.Popen(
                self._command, env=self._environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True,
            )  # fmt: skip

    def _remember(self) -> None:
        assert self._driver is not None
        for process in psutil.Process(self._driver.pid).children(recursive=True):
            self._family[process.pid] = process


def strike(loop: Looped, moment: Moment, whom: tuple[str, ...], struck: Struck, timeout_s: float) -> None:
    """Wait for a moment and kill one after the other; each after the moment has come again."""
    for title in whom:
        folder = loop.path / moment.folder
        before = len(events_of(folder)) if title != whom[0] else 0  # the next one once there is news

        def reached(folder: Path = folder, before: int = before) -> bool:
            events = events_of(folder)
            return len(events) > before and moment.reached(events, folder)

        done = loop.wait(reached, timeout_s) and (loop.kill_command() if title == "command" else loop.kill_part(title))
        (struck.killed if done else struck.missed).append(f"{title} at {moment.name}")


def play(
    name: str, loop: Looped, chosen: list[Moment], whom: Callable[[Moment], tuple[str, ...]], timeout_s: float
) -> Struck:
    """Run a loop to its end with these faults on the way."""
    struck, began = Struck(name), time.monotonic()
    for moment in chosen:
        strike(loop, moment, whom(moment), struck, timeout_s)
    loop.finish(timeout_s)
    struck.seconds, struck.starts = time.monotonic() - began, loop.starts
    return struck


def outcome(run: Path) -> dict[str, bytes]:
    """Return the bytes that nothing may change: selections, scores, checkpoints, the merged model, the summary."""
    wanted = ["summary.json", "*/selection.jsonl", "*/scores.parquet", "*/checkpoint/*", "adapter/*", "merged/*"]
    return {str(path.relative_to(run)): path.read_bytes() for glob in wanted for path in sorted(run.glob(glob))}


@contextmanager
def a_cluster(environment: dict[str, str]) -> Iterator[str]:
    """A cluster of this machine, whose processes have the faults in them."""
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ |= environment
    try:
        node = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "object_store_memory": 2**27, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
    finally:
        os.environ.clear()
        os.environ |= before
    try:
        yield cluster.address
    finally:
        family = psutil.Process().children(recursive=True)
        cluster.shutdown()
        for process in psutil.wait_procs(family, timeout=10)[1]:
            process.kill()


def tiny(folder: Path) -> tuple[Path, int]:
    """Write a loop over a tiny model; return its configuration and the periods."""
    from training_cases import training_config

    config = training_config(folder, *SETTINGS, rows=96)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path, PERIODS


def main() -> None:
    """Play the rounds and say what is left; exit with 1 where anything is amiss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="a loop of your own instead of the tiny one")
    parser.add_argument("--set", action="append", default=[], help="override a setting of --config")
    parser.add_argument("--rounds", nargs="+", default=["drivers", "parts", "cluster"])
    parser.add_argument("--stages", nargs="+", help="only moments whose name begins so")
    parser.add_argument("--expected", type=Path, help="an undisturbed run of the same loop that is there already")
    parser.add_argument("--out", type=Path, help="where the runs go; a temporary folder else")
    parser.add_argument("--pause", type=float, help="seconds that tasks and steps take more: 0.3, with --config 0")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds in which something has to happen")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loop-chaos-") as place:
        sys.exit(_all_rounds(asked, asked.out or Path(place)))


def _all_rounds(asked: argparse.Namespace, place: Path) -> int:
    from clusterucb.settings import load_config

    own = place / "tiny"
    own.mkdir(parents=True)  # refuses a place that was used
    config, periods = (asked.config, load_config(asked.config, asked.set).loop.periods) if asked.config else tiny(own)
    notes = place / "notes"
    notes.mkdir()
    faulty = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "faults"), str(ROOT)]),
        "CHAOS_NOTES": str(notes),
        "CHAOS_PAUSE": str(asked.pause if asked.pause is not None else 0 if asked.config else PAUSE_S),
    }
    overrides = [part for setting in asked.set for part in ("--set", setting)]
    chosen = [
        moment for moment in moments(periods)
        if not asked.stages or any(moment.name.startswith(stage) for stage in asked.stages)
    ]  # fmt: skip

    def looped(name: str, environment: dict[str, str], *more: str) -> Looped:
        run = place / name / (asked.expected.name if asked.expected else "run")  # the name is in the summary
        command = [sys.executable, "-m", "ray_app", "run", str(config), "--out", str(run), "--quiet"]
        return Looped([*command, *overrides, *more], run, environment)

    if asked.expected:
        wanted = outcome(asked.expected)
    else:
        calm = looped("undisturbed", dict(os.environ))
        print(f"undisturbed: {play('undisturbed', calm, [], lambda _: (), asked.timeout).seconds:.0f} s", flush=True)
        wanted = outcome(calm.path)
    wrong = 0
    for name in asked.rounds:
        if name == "cluster":
            with a_cluster(faulty) as address:
                loop = looped(name, faulty, "--address", address)
                struck = play(name, loop, chosen, lambda _: ("command",), asked.timeout)
                behind: list[str] = []  # of a cluster that is there to stay
        else:
            loop = looped(name, faulty)
            whom = (lambda _: ("command",)) if name == "drivers" else (lambda moment: moment.parts)
            struck = play(name, loop, chosen, whom, asked.timeout)
            behind = loop.left_behind()
        found = outcome(loop.path)
        differ = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        wrong += bool(differ or behind or struck.missed)
        print(
            f"{name}: {len(struck.killed)} killed, {struck.starts} starts, {struck.seconds:.0f} s; {len(wanted)} files "
            f"{'DIFFER: ' + ', '.join(differ) if differ else 'equal'}; {len(behind)} processes left behind",
            flush=True,
        )
        for words, lines in (("killed", struck.killed), ("MISSED", struck.missed), ("LEFT BEHIND", behind)):
            for line in lines:
                print(f"  {words}: {line}", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    main()
