"""What a service refuses, as exceptions that carry its problem document.

Each takes its message first and survives pickling.
"""

import json
from typing import Any

from clusterucb.errors import ClusterUCBError


class ServiceError(ClusterUCBError):
    """Base of what can go wrong with a service; `problem` is its problem document (RFC 9457), if there was one."""

    def __init__(self, message: str, problem: dict[str, Any] | None = None) -> None:
        super().__init__(message, problem)
        self.problem: dict[str, Any] = problem or {}

    def __str__(self) -> str:
        """Return the message alone."""
        return str(self.args[0])

    @property
    def status(self) -> int | None:
        """The answer's status."""
        return self.problem.get("status")


class Unreachable(ServiceError, ConnectionError):
    """The service does not answer."""


class Unauthorized(ServiceError, PermissionError):
    """There is no valid token."""


class Forbidden(ServiceError, PermissionError):
    """The token's scope does not allow it."""


class Missing(ServiceError, LookupError):
    """It is not there, or it is somebody else's."""


class Conflicting(ServiceError, RuntimeError):
    """It does not fit the state that things are in."""


class Invalid(ServiceError, ValueError):
    """The request will not do; `problem["errors"]` names every field."""


class TooMuch(ServiceError, RuntimeError):
    """The service takes no more at the moment, and patience is at its end."""


class RunFailed(ServiceError, RuntimeError):
    """The run ended with an error."""


class RunCancelled(ServiceError, RuntimeError):
    """The run was cancelled."""


_KINDS: dict[int, type[ServiceError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: Missing,
    409: Conflicting,
    429: TooMuch,
    503: TooMuch,
}


def error_of(status: int, body: bytes) -> ServiceError:
    """Return the exception for an answer of 400 and above."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"status": status, "detail": f"the service answered {status}"}
    kind = _KINDS.get(status, Invalid if 400 <= status < 500 else ServiceError)
    return kind(str(problem.get("detail") or problem.get("title") or status), problem)
