"""The report stands alone, shows what the view holds, and takes no text for markup."""

import json
import re
from pathlib import Path

import pytest
from browsing import NASTY, looking, spoil
from selection_cases import config_of, run_here, small_selection

from clusterucb.run.run_folder import RunFolder
from clusterucb.run.view.model import RunView
from clusterucb.run.view.read import read_view
from clusterucb.run.view.report import PAGE, PLOT_STYLE, digest, embedded, render


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("report")
    settings = small_selection(folder)
    spoil(folder / "pool.jsonl")
    return run_here(config_of(settings), folder / "run & <b>run")


def test_the_view_in_a_report_is_the_view(finished: RunFolder) -> None:
    page = finished.report_file.read_text()
    data = re.search(r'<script type="application/json" id="view">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert RunView.model_validate_json(data[1]) == read_view(finished)
    assert page.count("</script>") == 3  # data, library, page: no text ends one


def test_embedded_json_means_the_same_and_holds_no_markup() -> None:
    text = json.dumps({"key <": f"{NASTY}<!--\u2029]]>"}, ensure_ascii=False)
    safe = embedded(text)
    assert json.loads(safe) == json.loads(text)
    assert not re.search("[<>&\u2028\u2029]", safe)


def test_the_policy_of_a_report_names_what_is_in_it(finished: RunFolder) -> None:
    page = finished.report_file.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    scripts = [text for _, text in re.findall(r"<script( type=\"module\")?>(.*?)</script>", page, re.DOTALL)]
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    named = {
        f"script-src {' '.join(map(digest, scripts))}",
        f"style-src {digest(styles[0])} {digest(PLOT_STYLE.read_text())}",
    }
    assert named <= set(policy[1].split("; "))
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]


def test_what_is_put_into_a_page_cannot_end_it_early() -> None:
    for path in (*PAGE.glob("*.js"), PAGE / "vendor" / "plot.js"):
        assert not re.search("</script|<!--", path.read_text(), re.IGNORECASE), path
    assert "</style" not in (PAGE / "view.css").read_text()


def test_no_module_makes_markup_of_text() -> None:
    here = Path(__file__).parents[4] / "serve" / "page"
    for path in (*PAGE.glob("*.js"), *here.glob("*.js")):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", path.read_text()
        )


def test_modules_join(finished: RunFolder, tmp_path: Path) -> None:
    page = render(read_view(finished))
    module = page.rpartition('<script type="module">')[2].partition("</script>")[0]
    assert not re.search(r"^(import|export)\b", module, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function\*?|const|let|class) (\w+)", module, re.MULTILINE)
    assert len(names) == len(set(names)) > 50


def test_a_report_in_a_browser(finished: RunFolder, browser) -> None:
    with looking(browser, offline=True) as look:
        page = look.page
        page.goto(finished.report_file.as_uri())
        page.get_by_role("heading", level=1, name="run & <b>run").wait_for()
        assert page.locator("svg.plot").count() >= 8
        look.check("report-light")
        page.get_by_role("searchbox", name="Search").fill("onerror one")
        page.locator(".pane mark").first.wait_for()
        rows = page.locator("table.samples tbody tr")
        assert 0 < rows.count() <= 60
        buttons = page.locator("table.samples tbody button")
        buttons.nth(0).focus()
        page.keyboard.press("ArrowDown")
        assert page.locator(".pane h3 .id").text_content() == buttons.nth(1).text_content()
        page.get_by_role("radio", name="Not selected").check()
        assert page.locator(".pane .badge").text_content() != "rank 1 of the selection"
        page.get_by_role("searchbox", name="Search").fill("no sample says this")
        page.get_by_text("No sample matches.").wait_for()
        page.locator("summary").evaluate_all("all => all.forEach(one => one.click())")
        look.check("report-opened")
        term = page.get_by_role("button", name="Recall").first
        term.focus()
        page.get_by_role("tooltip").first.wait_for()
        page.keyboard.press("Escape")
        assert page.get_by_role("tooltip").count() == 0
        assert look.asked == [finished.report_file.as_uri()]
    for name, options in {"report-dark": {"dark": True}, "report-narrow": {"width": 390}}.items():
        with looking(browser, **options) as look:
            look.page.goto(finished.report_file.as_uri())
            look.page.locator("svg.plot").first.wait_for()
            look.check(name)


def test_the_verb_makes_it_anew(finished: RunFolder, tmp_path: Path) -> None:
    from ray_app.run_report import make_report

    there = make_report(finished.path, tmp_path / "elsewhere.html")
    assert there.read_bytes() == finished.report_file.read_bytes()
    before = finished.report_file.read_bytes()
    finished.report_file.unlink()
    assert make_report(finished.path).read_bytes() == before
