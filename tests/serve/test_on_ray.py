"""The verb on a real Ray: it listens on loopback only, its replica may die, and a taken port is one line."""

import http.client
import os
import signal
import time
import urllib.request
from collections.abc import Iterator

import psutil
import pytest
from service_processes import ServiceProcess, write_service

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    service = ServiceProcess(write_service(tmp_path_factory.mktemp("service")))
    try:
        service.start()
        yield service
    finally:
        service.stop()


def listeners(service: ServiceProcess) -> list[tuple[str, int, str]]:
    """Return address, port and title of whatever of the service listens."""
    assert service.process is not None
    found = list[tuple[str, int, str]]()
    for each in psutil.Process(service.process.pid).children(recursive=True):
        try:
            title = " ".join(each.cmdline())
            heard = [c.laddr for c in each.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN]
        except psutil.NoSuchProcess:
            continue
        found += [(address.ip.removeprefix("::ffff:"), address.port, title) for address in heard]
    return found


def test_it_listens_on_loopback_only_and_the_replica_has_the_port(service: ServiceProcess):
    found = listeners(service)
    assert {address for address, _, _ in found} == {"127.0.0.1"}
    (holder,) = [title for _, port, title in found if port == service.port]
    assert "ServeReplica" in holder, "a proxy in front of one replica would cost as much as the replica"


def test_a_replica_that_is_killed_is_replaced_on_the_same_port(service: ServiceProcess):
    (old,) = service.pids("replica")
    watching = http.client.HTTPConnection("127.0.0.1", service.port)  # the port is not free while one was connected
    watching.request("GET", "/healthz")
    assert watching.getresponse().read()
    os.kill(old, signal.SIGKILL)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 120
    while True:
        try:
            with direct.open(f"{service.url}/readyz", timeout=5):
                break
        except OSError:  # refused, or not ready yet
            pass
        assert time.monotonic() < deadline, "it never came back"
        time.sleep(0.2)
    assert service.pids("replica") != [old]
    watching.close()


def test_a_port_that_is_taken_is_one_line(service: ServiceProcess):
    second = ServiceProcess(service.file, port=service.port)
    with pytest.raises(AssertionError, match=f"127.0.0.1:{service.port} cannot be listened on"):
        second.start()
    assert second.process is not None
    assert second.process.wait(60) == 2
