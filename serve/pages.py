"""The page at `/`, for people: static files and nothing else; what it shows comes from the API, with the user's token.

Invariant: the files are those named here, read when the application is made; no request reaches the file system, and
the page runs no script and no style but these.
"""

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from clusterucb.run.view.report import PAGE, PLOT_STYLE, digest

_HERE = Path(__file__).parent / "page"
_FILES = {"/": _HERE / "index.html"} | {
    f"/page/{path.name}": path
    for path in (*_HERE.glob("*.[jc]s*"), *PAGE.glob("*.[jc]s*"), PAGE / "vendor" / "plot.js")
}
_KINDS = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {digest(PLOT_STYLE.read_text(encoding='utf-8'))}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def public(path: str) -> bool:
    """Whether a path is one of the page's files, given without a token: nothing of them is anybody's."""
    return path in _FILES


def pages() -> APIRouter:
    """Return the router of the page."""
    router = APIRouter(include_in_schema=False)
    for place, path in _FILES.items():
        router.add_api_route(place, _static(path), methods=["GET"])
    return router


def _static(path: Path) -> Callable[[Request], Awaitable[Response]]:
    """Return a handler that gives one file; a browser that has it asks only whether it changed."""
    content = path.read_bytes()
    headers = {
        "Content-Security-Policy": _POLICY,
        "Cache-Control": "no-cache",
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    }

    async def give(request: Request) -> Response:
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_KINDS[path.suffix], headers=headers)

    return give
