"""A service as users start it, `clusterucb serve`, in a process of its own, with tiny models; and what runs in it."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml
from selection_cases import small_selection, write_rows

from clusterucb.config import ServiceConfig
from clusterucb.settings import load_service_config
from ray_app.client import Client

CLASSES = {
    "replica": "ServeReplica",
    "proxy": "ProxyActor",
    "controller": "ServeController",
    "service": "Service",
    "keeper": "Keeper",
    "preparer": "Preparer",
    "coordinator": "Coordinator",
    "worker": "GradientWorker",
}
"""What Ray calls a process: `ray::`, perhaps a name, the class, perhaps what it is doing."""


def write_service(folder: Path, rows: int = 160, **more: object) -> Path:
    """Write a tiny model, a pool, two targets and the service's file."""
    settings = small_selection(folder, rows)
    other = write_rows(folder / "birds.jsonl", 8, ["birds"], seed=3)
    names = ("model", "gradients", "tokens")
    tree = {
        "catalogue": {
            "pools": {"mixed": settings["pool"]},
            "checkpoints": {"tiny": {name: settings[name] for name in names}},
            "targets": {"sums": settings["target"], "birds": {"path": str(other)}},
        },
        "folder": str(folder / "service"),
        "workers": settings["workers"],
        "limits": {"requests_per_minute": 1_000_000},
    } | more
    path = folder / "service.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class ServiceProcess:
    """The verb, and its descendants by what they do."""

    file: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[str] | None" = None
    secret: str = ""
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def config(self) -> ServiceConfig:
        return load_service_config(self.file)

    def start(self, *options: str, timeout_s: float = 300) -> float:
        """Start it and wait until it is ready; return the seconds that took."""
        began = time.monotonic()
        temporary = tempfile.mkdtemp(prefix="rs-")
        environment = os.environ | {
            "RAY_TMPDIR": temporary, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-m", "ray_app", "serve", str(self.file), "--port", str(self.port), *options]
        self.process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._temporary = temporary
        self.said = said = []  # by this process
        ready = threading.Event()

        def listen() -> None:
            assert self.process is not None
            assert self.process.stdout is not None
            for line in self.process.stdout:
                said.append(line.rstrip())
                if line.startswith("cucb_"):
                    self.secret = line.strip()
                if "ready: http" in line:
                    ready.set()
            ready.set()

        threading.Thread(target=listen, daemon=True).start()
        assert ready.wait(timeout_s), f"it was not ready in time: {self.said[-20:]}"
        assert any("ready: http" in line for line in self.said), f"it ended: {self.said[-20:]}"
        return time.monotonic() - began

    def client(self, patience_s: float = 240) -> Client:
        """Return a client with the admin's token."""
        return Client(self.url, self.secret, patience_s)

    def pids(self, what: str) -> list[int]:
        """Return the processes that do something."""
        assert self.process is not None
        found, title = [], re.compile(rf"^ray::(.*:)?{CLASSES[what]}\b")
        for each in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if each.status() != psutil.STATUS_ZOMBIE and title.match(" ".join(each.cmdline())):
                    found.append(each.pid)
            except psutil.NoSuchProcess:
                continue
        return found

    def kill(self, what: str) -> list[int]:
        """Kill them without a warning."""
        pids = self.pids(what)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return pids

    def kill_all(self) -> None:
        """Kill the whole of it, Ray included, as a machine that loses power does."""
        assert self.process is not None
        mine = psutil.Process(self.process.pid)
        for each in [*mine.children(recursive=True), mine]:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def stop(self, timeout_s: float = 120) -> None:
        """Stop it as Ctrl-C does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout_s)
        finally:
            if self.process.poll() is None:
                self.kill_all()
        shutil.rmtree(self._temporary, ignore_errors=True)


@contextmanager
def running_service(file: Path, *options: str) -> Iterator[ServiceProcess]:
    """Serve until the block ends."""
    service = ServiceProcess(file)
    try:
        service.start(*options)
        yield service
    finally:
        if service.process is not None and service.process.poll() is None:
            service.stop()


def when(condition: Callable[[], bool], timeout_s: float = 240) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
