"""The verb on a real Ray: loopback only, the page follows a run, the replica may die, a taken port is one line."""

import http.client
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from browsing import looking
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


@pytest.mark.timeout(600)
def test_the_page_follows_a_run_from_the_form_to_the_file(service: ServiceProcess, browser, tmp_path: Path):
    with looking(browser) as look:
        page = look.page
        page.set_default_timeout(240_000)  # a coordinator and a worker have to start
        page.goto(service.url)
        page.get_by_label("Token").fill(service.secret)
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("heading", name="No runs yet").wait_for()
        page.get_by_role("link", name="Start a selection").click()
        page.get_by_label("Name (optional)").fill("on Ray")
        page.get_by_role("button", name="Start the selection").click()
        page.get_by_role("heading", level=1, name="on Ray").wait_for()
        page.locator(".run .badge.state-running").wait_for()
        look.check("ray-running")
        page.locator(".run .badge.state-finished").wait_for()
        page.get_by_role("heading", name="What it found").wait_for()
        page.locator("svg.plot").first.wait_for()
        look.check("ray-finished")
        page.get_by_role("searchbox", name="Search").fill("sums/")
        page.locator(".pane").first.wait_for()
        with page.expect_download() as caught:
            page.get_by_role("button", name="Selection (JSONL)").click()
        caught.value.save_as(tmp_path / "selection.jsonl")
        assert all(url.startswith((service.url, "data:", "blob:")) for url in look.asked)
    (run,) = (Path(service.config.folder) / "runs").iterdir()
    assert (tmp_path / "selection.jsonl").read_bytes() == (run / "selection.jsonl").read_bytes()


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
