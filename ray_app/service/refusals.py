"""What a service refuses, as exceptions; the HTTP room turns each into a problem document.

Each takes its message first and survives pickling between processes.
"""

from clusterucb.errors import ClusterUCBError


class Refusal(ClusterUCBError):
    """Base of what a service refuses."""


class InvalidRequest(Refusal, ValueError):
    """The request cannot be carried out as it stands; `field` names the part of the body, dotted."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message, field)
        self.field = field

    def __str__(self) -> str:
        """Return the message alone."""
        return str(self.args[0])


class NotFound(Refusal, LookupError):
    """There is no such run, target or file, or it is somebody else's."""


class KeyReused(Refusal, ValueError):
    """An idempotency key came back with another request."""


class Conflict(Refusal, RuntimeError):
    """The request does not fit the state of what it is about: a result before the run's end, a name that is taken."""


class Busy(Refusal, RuntimeError):
    """The service takes no more at the moment; try again after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float = 5.0) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        """Return the message alone."""
        return str(self.args[0])


class QueueFull(Busy):
    """Too many runs wait, of all or of this token."""


class Unavailable(Busy):
    """What stands behind the service does not answer."""
