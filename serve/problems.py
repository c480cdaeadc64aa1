"""Errors as RFC 9457 problem documents that name the field, the value and the way out.

Invariant: every answer of 400 and above has one, and none tells of the inside: an unforeseen error is logged here and
answered with its id alone.
"""

import logging
import secrets
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path

from clusterucb.errors import ClusterUCBError
from clusterucb.settings import explain
from ray_app.service.refusals import Busy, Conflict, InvalidRequest, KeyReused, NotFound, QueueFull, Refusal
from ray_app.service.requests import ScoreRequest, SelectionRequest, TargetUpload

MEDIA_TYPE = "application/problem+json"
_LOG = logging.getLogger(__name__)
_MOST_MISTAKES = 20
_LONGEST_VALUE = 120
_BODIES: tuple[tuple[str, type[BaseModel]], ...] = (
    ("/selections", SelectionRequest),
    ("/plans", SelectionRequest),
    ("/scores", ScoreRequest),
    ("/targets", TargetUpload),
)


class Mistake(BaseModel):
    """One thing that is wrong with a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    field: str
    """Dotted place in the body, or the parameter or header."""
    value: str | None = None
    """What stood there, shortened."""
    message: str
    """What is wrong, and the way out."""


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = "about:blank"
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    """What is wrong, and the way out."""
    errors: list[Mistake] | None = None
    """Every part of the request that is wrong."""
    id: str | None = None
    """Finds an unforeseen error in the service's log."""


class Refused(HTTPException):
    """An answer that is a problem document, raised where it is found out."""

    def __init__(
        self, status: int, detail: str, errors: Sequence[Mistake] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.errors = tuple(errors)

    def response(self) -> Response:
        """Return the problem document."""
        return problem(self.status_code, self.detail, self.errors, self.headers)


def problem(
    status: int,
    detail: str,
    errors: Sequence[Mistake] = (),
    headers: Mapping[str, str] | None = None,
    id: str | None = None,
) -> Response:
    """Return a problem document."""
    document = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, errors=list(errors) or None, id=id
    )
    return Response(document.model_dump_json(exclude_none=True), status, dict(headers or {}), MEDIA_TYPE)


def add_problems(app: FastAPI) -> None:
    """Have every error of an application answered with a problem document."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error.response()


def _refusal(request: Request, error: Exception) -> Response:
    message = request.app.state.context.redact(str(error))
    match error:
        case InvalidRequest():
            return problem(422, message, [Mistake(field=error.field, message=message)] if error.field else ())
        case NotFound():
            return problem(404, message)
        case KeyReused():
            return problem(422, message, [Mistake(field="Idempotency-Key", message=message)])
        case Conflict():
            return problem(409, message)
        case Busy():
            status = 429 if isinstance(error, QueueFull) else 503
            return problem(status, message, headers={"Retry-After": f"{max(1, round(error.retry_after_s))}"})
        case _:
            assert isinstance(error, ClusterUCBError)
            return problem(422, message)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    root = next((body for path, body in _BODIES if request.url.path.endswith(path)), None)
    mistakes = [_mistake(found, root) for found in error.errors()[:_MOST_MISTAKES]]
    more = "" if len(mistakes) == 1 else f" (and {len(error.errors()) - 1} more)"
    return problem(422, mistakes[0].message + more, mistakes)


def _mistake(found: ErrorDetails, root: type[BaseModel] | None) -> Mistake:
    part, *loc = found["loc"]
    shown = found | {"input": _short(found["input"])}
    if part == "body" and root is not None and loc:
        field, message = explain(shown | {"loc": tuple(loc)}, root)  # pyright: ignore[reportArgumentType]
        message = message.replace(f": set it in the file or with --set {field}=...", ": add it to the body")
    else:
        field = ".".join(map(str, loc)) or "body"
        state = "is missing" if found["type"] == "missing" else f"is {shown['input']!r}"
        message = f"{field} {state}: {found['msg']}"
    context = found.get("ctx", {})
    value = None if found["type"] == "missing" else str(context.get("tag", shown["input"]))
    return Mistake(field=field, value=value, message=message)


def _short(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else type(value).__name__
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {
        404: f"{request.url.path} is not a resource of this service: /v1/openapi.json lists them",
        405: f"{request.url.path} does not take {request.method}: the header Allow names what it takes",
    }.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request, headers.get("Allow", "")))
    return problem(error.status_code, detail, headers=headers)


def _allowed(request: Request, of_one_route: str) -> list[str]:
    """Return every method of a path: the router knows those of the first route that fits."""
    methods = set(filter(None, of_one_route.split(", ")))
    for path, operations in request.app.openapi()["paths"].items():
        if compile_path(path)[0].fullmatch(request.url.path):
            methods.update(method.upper() for method in operations)
    return sorted(methods)


def _unforeseen(request: Request, error: Exception) -> Response:
    id = secrets.token_hex(8)
    _LOG.error("unforeseen error %s at %s %r", id, request.method, request.url.path, exc_info=error)
    return problem(500, f"the service failed unforeseen; its log has the details under {id}", id=id)
