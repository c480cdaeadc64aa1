"""Looking at a page as a test does: what it asks for, what it complains of, what axe finds, how it looks.

Screenshots are kept in the folder that CLUSTERUCB_SCREENSHOTS names, for people to look at.
"""

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe

NASTY = "<img src=x onerror=window.pwned=1></script><script>window.pwned=1</script>&lt;b&gt;\u2028"
"""Ends a script, a tag, an attribute and a line, where text is taken for anything else."""


@dataclass
class Look:
    """A page and what was noticed about it."""

    page: Any
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def hear(self, said: Any) -> None:
        """Note a complaint; a view that was asked for before there is one is none, though browsers tell of it."""
        if said.type in ("error", "warning") and "409 (Conflict)" not in said.text:
            self.complaints.append(said.text)

    def keep(self, name: str) -> None:
        """Keep a screenshot of the whole page."""
        if folder := os.environ.get("CLUSTERUCB_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{folder}/{name}.png", full_page=True)

    def check(self, name: str) -> None:
        """Keep a screenshot; nothing stands out sideways, axe finds nothing, and no text became anything else."""
        self.page.mouse.move(0, 0)
        self.keep(name)
        wide, window = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= window, f"{name}: {wide} pixels wide in a window of {window}"
        found = Axe().run(self.page).response["violations"]
        words = [f"{each['id']}: {[node['html'][:200] for node in each['nodes'][:3]]}" for each in found]
        assert not found, f"{name}: {json.dumps(words, indent=1)}"
        assert self.page.evaluate("window.pwned === undefined && !document.querySelector('img, main script')")
        assert self.complaints == []


@contextmanager
def looking(browser: Any, width: int = 1360, dark: bool = False, **options: Any):
    """Open a page in a browser of its own."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce", **options
    )
    context.set_default_timeout(60_000)
    look = Look(context.new_page())
    look.page.on("request", lambda request: look.asked.append(request.url))
    look.page.on("console", look.hear)
    look.page.on("pageerror", lambda error: look.complaints.append(str(error)))
    try:
        yield look
    finally:
        context.close()


def spoil(pool: Path) -> None:
    """Put markup into ids, sources and texts of a pool."""
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    for row in rows:
        row["id"], row["source"] = f"{row['id']} {NASTY}", f"{row['source']} {NASTY}"
        row["messages"][-1]["content"] += f" {NASTY}"
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
