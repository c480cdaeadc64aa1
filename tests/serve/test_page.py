"""The page in a browser: sign in, submit, watch, read, download; and how it looks when something is wrong."""

import json
import re
import threading
from collections.abc import Iterator

import pytest
import service_in_process
from browsing import NASTY, looking, spoil
from live_service import LiveService, live_service, service_config

from clusterucb.run.in_process import run_in_process

LABEL = "sums <b>first</b>"


class Gate:
    """Holds runs in the middle of their search until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()

    def run(self, config, folder, emit) -> None:
        told = 0

        def held(event) -> None:
            nonlocal told
            emit(event)
            if event.event == "progressed" and event.stage == "search":
                told += event.samples
                if told >= 24:
                    assert self.open.wait(120), "nobody opened the gate"

        run_in_process(config, folder, held)


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with pytest.MonkeyPatch.context() as patch:
        gate = Gate()
        patch.setattr(service_in_process, "run_in_process", gate.run)
        yield gate
        gate.open.set()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, gate: Gate) -> Iterator[LiveService]:
    folder = tmp_path_factory.mktemp("page")
    config = service_config(folder, limits={"failed_authentications_per_minute": 1000})
    spoil(folder / "pool.jsonl")
    with live_service(config) as service:
        yield service


def sign_in(page, live: LiveService, who: str = "ann") -> None:
    page.goto(live.url)
    page.get_by_label("Token").fill(live.secrets[who])
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("heading", level=1, name="Runs").wait_for()


def test_from_the_form_to_the_files(live: LiveService, gate: Gate, browser, tmp_path) -> None:
    with looking(browser) as look:
        page = look.page
        page.goto(live.url)
        page.get_by_label("Token").fill("no token")
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("alert").get_by_text("does not know this token").wait_for()
        assert any("401" in words for words in look.complaints)
        look.complaints.clear()  # the browser tells of every refused request
        look.check("sign-in-401")
        page.get_by_label("Token").fill(live.secrets["ann"])
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("heading", name="No runs yet").wait_for()
        look.check("list-empty")

        page.get_by_role("link", name="Start a selection").click()
        page.get_by_role("heading", level=1, name="New selection").wait_for()
        page.get_by_role("radio", name="My own examples").check()
        examples = page.get_by_label("Examples, one JSON object a line")
        examples.fill('{"messages": [\nno JSON')
        page.get_by_role("button", name="Start the selection").click()
        page.get_by_text("Line 1 is not JSON").wait_for()
        assert examples.evaluate("box => box === document.activeElement")
        look.check("form-mistake")
        chat = [{"role": "user", "content": "one plus two"}, {"role": "assistant", "content": f"three {NASTY}"}]
        examples.fill("\n".join(json.dumps({"id": str(i), "messages": chat}) for i in range(3)))
        page.get_by_label("Name (optional)").fill(LABEL)
        page.get_by_label("(% of the pool)").first.fill("40")
        page.get_by_role("button", name="Show the cost").click()
        page.get_by_text("64 samples").wait_for()  # 40 % of 160
        look.check("form-cost")
        page.get_by_role("button", name="Start the selection").click()

        page.get_by_role("heading", level=1, name=LABEL).wait_for()
        page.locator(".run .badge.state-running").wait_for()
        page.get_by_role("heading", name="Budget over rounds").wait_for()
        page.get_by_text("if the run ended now").wait_for()
        look.check("run-live")
        run = re.search("[0-9a-f]{28}", page.url)
        assert run is not None
        page.get_by_role("link", name="All runs").click()
        page.get_by_role("cell", name=re.compile("search: ")).wait_for()
        look.check("list-live")
        page.get_by_role("link", name=LABEL).click()
        page.get_by_role("heading", level=1, name=LABEL).wait_for()
        gate.open.set()

        page.locator(".run .badge.state-finished").wait_for()
        page.get_by_role("heading", name="What it found").wait_for()
        look.check("run-finished")
        page.get_by_role("searchbox", name="Search").fill("sums/ one")
        page.locator(".pane mark").first.wait_for()
        rows = page.locator("table.samples tbody tr").count()
        assert 0 < rows <= 8
        for button, ending in (
            ("Selection (JSONL)", "jsonl"),
            ("Scores (Parquet)", "parquet"),
            ("Report (HTML)", "html"),
        ):
            with page.expect_download() as caught:
                page.get_by_role("button", name=button).click()
            there = tmp_path / caught.value.suggested_filename
            caught.value.save_as(there)
            assert there.suffix == f".{ending}"
            name = {"jsonl": "selection.jsonl", "parquet": "scores.parquet", "html": "report.html"}[ending]
            assert there.read_bytes() == (live.backend.folder / "runs" / run[0] / name).read_bytes()
        assert all(url.startswith((live.url, "data:", "blob:")) for url in look.asked)
        assert live.secrets["ann"] not in page.content()


def test_dark_and_narrow(live: LiveService, gate: Gate, browser) -> None:
    gate.open.set()
    with live.http() as http:
        run = http.post("/v1/selections", json={"pool": "mixed", "checkpoint": "tiny", "target": "sums"}).json()["id"]
    for name, options in {"dark": {"dark": True}, "narrow": {"width": 390}}.items():
        with looking(browser, **options) as look:
            sign_in(look.page, live)
            look.page.get_by_role("row").nth(1).wait_for()
            look.check(f"list-{name}")
            look.page.goto(f"{live.url}/#/runs/{run}")
            look.page.locator(".run .badge.state-finished").wait_for()
            look.page.locator("svg.plot").first.wait_for()
            look.check(f"run-{name}")
            look.page.goto(f"{live.url}/#/new")
            look.page.get_by_role("button", name="Start the selection").wait_for()
            look.check(f"form-{name}")


def test_stopping_a_run_and_one_that_is_not_there(live: LiveService, gate: Gate, browser) -> None:
    gate.open.clear()
    with live.http() as http:
        run = http.post("/v1/selections", json={"pool": "mixed", "checkpoint": "tiny", "target": "birds"}).json()["id"]
    with looking(browser) as look:
        page = look.page
        sign_in(page, live)
        page.goto(f"{live.url}/#/runs/{run}")
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_role("dialog").wait_for()
        look.check("run-stop")
        page.get_by_role("button", name="Stop it").click()
        page.get_by_role("dialog").wait_for(state="detached")
        gate.open.set()
        page.locator(".run .badge.state-cancelled").wait_for()
        page.goto(f"{live.url}/#/runs/{'0' * 28}")
        page.get_by_role("alert").get_by_text("no such run").wait_for()
        look.complaints.clear()
        look.check("run-missing")


def test_a_service_that_is_gone_and_a_token_that_ends(live: LiveService, browser) -> None:
    with looking(browser) as look:
        page = look.page
        sign_in(page, live, "bob")
        page.route("**/v1/**", lambda route: route.abort())
        page.get_by_role("alert").get_by_text("cannot be reached").wait_for()
        look.complaints.clear()
        look.check("list-unreachable")
        page.unroute("**/v1/**")
        page.get_by_role("alert").wait_for(state="hidden")
        live.tokens.revoke("bob")
        page.get_by_role("heading", level=1, name="Enter your token").wait_for()
        look.complaints.clear()
        look.check("signed-out")


def test_the_page_is_public_and_strict_and_the_view_is_not(live: LiveService) -> None:
    with live.http(None) as http:
        page = http.get("/")
        assert page.status_code == 200
        assert "unsafe" not in page.headers["content-security-policy"]
        assert "script-src 'self'" in page.headers["content-security-policy"]
        script = http.get("/page/app.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert http.get("/page/app.js", headers={"If-None-Match": script.headers["etag"]}).status_code == 304
        for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page/", "/page/vendor/make.sh", "/page/nothing.js"):
            assert http.get(path).status_code == 401
        assert http.get(f"/v1/selections/{'0' * 28}/view").status_code == 401
    with live.http() as http:
        assert http.get(f"/v1/selections/{'0' * 28}/view").status_code == 404
