"""A local Ray listens on loopback only; a cluster that is not there is a clear error."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from clusterucb.errors import ResourceError
from ray_app.cluster import choose_address, connected, outside_address

LISTENERS = """
import contextlib
import psutil
from ray_app.cluster import choose_address, connected
with connected(choose_address("local")):
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    print(connection.laddr.ip)
"""


@pytest.mark.ray
def test_a_local_ray_listens_on_loopback_only():
    # A process of its own: the switch is read when Ray is imported.
    answer = subprocess.run([sys.executable, "-c", LISTENERS], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert {address.removeprefix("::ffff:") for address in answer.stdout.split()} == {"127.0.0.1"}


def test_the_address_asked_for_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert choose_address(None) == "head:6379"
    assert choose_address("other:6379") == "other:6379"
    assert choose_address("local") == "local"
    assert choose_address(None) == "local"


def switch_for_a_head_at(host: str, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with socket.create_server((host, 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        assert choose_address(address) == address
    return os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")


def test_a_head_on_loopback_alone_is_reached_there(monkeypatch: pytest.MonkeyPatch):
    assert switch_for_a_head_at("127.0.0.1", monkeypatch) == "0"


def test_a_head_that_listens_beyond_loopback_is_left_to_ray(monkeypatch: pytest.MonkeyPatch):
    outside = outside_address()
    if outside is None:
        pytest.skip("this machine has no network: nothing can listen beyond loopback")
    assert switch_for_a_head_at(outside, monkeypatch) is None


@pytest.mark.ray
def test_a_missing_cluster_is_named():
    if any(process.name() == "gcs_server" for process in psutil.process_iter()):
        pytest.skip("a Ray cluster runs on this machine: `auto` finds it")
    with pytest.raises(ResourceError, match=r"no Ray cluster answers at auto"), connected("auto"):
        pass
