"""Fixtures shared by all rooms. Ray and thread settings are made before anything imports Ray or torch."""

import atexit
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # loopback only
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="ray-")  # a short path, and no other process's cluster in it
os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it once a process, when its core is loaded
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))  # else Ray writes one into the home folder
os.environ.setdefault("RAY_worker_niceness", "0")  # else the tests' own processes starve the workers they wait for
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else the commands of tests would not hear Ctrl-C
torch.set_num_threads(1)
atexit.register(shutil.rmtree, os.environ["RAY_TMPDIR"], ignore_errors=True)  # before Ray's own: it runs after
settings.register_profile("steady", deadline=None, derandomize=True)  # the machine is shared: no deadline, no luck
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start a Ray, which take longest: none of them is then left to run alone at the end."""
    starting = {item.path for item in items if item.get_closest_marker("ray") is not None}
    items.sort(key=lambda item: item.path not in starting)


@pytest.fixture(scope="session")
def material() -> Path:
    """Folder with the real model, pool, targets and recorded influence tables."""
    path = os.environ.get("CLUSTERUCB_MATERIAL")
    if not path:
        pytest.skip("CLUSTERUCB_MATERIAL is not set: this test needs the real material folder")
    return Path(path)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; while it is there an event loop runs in this thread, so it lasts for one file only."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium is on the PATH: this test looks at pages in it (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    arguments += ["--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield found
        found.close()
