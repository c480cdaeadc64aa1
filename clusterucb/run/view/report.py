"""`report.html`: the view of a run in one file that needs no network, by the code that draws the service's page.

Invariants: nothing in it is run but the scripts whose digests its policy names; the view travels as data that no text
in it can end early; it asks for nothing from anywhere.
"""

import base64
import hashlib
import html
import re
from functools import cache
from pathlib import Path

from clusterucb.run.disk import write_atomically
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.view.model import RunView

PAGE = Path(__file__).parent / "page"
"""Style, scripts and the plotting library that show a view."""
PLOT_STYLE = PAGE / "vendor" / "plot-style.css"
"""The one style element that the plotting library makes, for policies to name."""

_MODULES = ("dom", "format", "terms", "charts", "tables", "samples", "sections", "run-view", "theme", "report")
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[a-z-]+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function|const|class)", re.MULTILINE)


def digest(text: str) -> str:
    """Return how a content security policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def write_report(folder: RunFolder, view: RunView) -> None:
    """Write the report of a run into its folder."""
    write_atomically(folder.report_file, render(view))
    folder.replica.put(folder.report_file)


def render(view: RunView) -> str:
    """Return the whole page."""
    style, plot, script = _assets()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {digest(plot)} {digest(script)}",
            f"style-src {digest(style)} {digest(PLOT_STYLE.read_text(encoding='utf-8'))}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    page = (PAGE / "report.html").read_text(encoding="utf-8")
    parts = {
        "POLICY": policy,
        "STYLE": style,
        "PLOT": plot,
        "SCRIPT": script,
        "VIEW": embedded(view.model_dump_json()),
        "TITLE": html.escape(view.run),
    }
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: parts[found[1]], page)


def embedded(json_text: str) -> str:
    """Return JSON that means the same and cannot end, or begin, anything in the page around it."""
    replaced = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return json_text.translate(str.maketrans(replaced))


@cache
def _assets() -> tuple[str, str, str]:
    """Return style, plotting library and the modules joined in the order of their imports."""
    modules = [(PAGE / f"{name}.js").read_text(encoding="utf-8") for name in _MODULES]
    script = "\n".join(_EXPORT.sub("", _IMPORT.sub("", module)) for module in modules)
    plot = (PAGE / "vendor" / "plot.js").read_text(encoding="utf-8")
    return (PAGE / "view.css").read_text(encoding="utf-8"), plot, script
