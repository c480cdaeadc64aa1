"""Requests to a service, sent again where that is safe and may help.

Invariant: a request is repeated only if it changes nothing or carries an idempotency key, and no longer than the
client's patience; the token is in no message.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx2

from ray_app.client.errors import Unreachable, error_of

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 5.0
_SILENCE_S = 45.0
"""A stream of events says something every fifteen seconds."""
_AGAIN = (429, 502, 503, 504)


class Connection:
    """A keep-alive connection with a token."""

    def __init__(
        self,
        url: str,
        token: str,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._clock, self.sleep = clock, sleep
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx2.Timeout(30.0, read=300.0),
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        """Send a request until it is answered; raise what a refusal means. Only for what may be sent twice."""
        deadline, wait_s = self._clock() + self._patience_s, _FIRST_WAIT_S
        while True:
            wanted = None
            try:
                answer = self._http.request(method, path, json=json, params=_set(params), headers=headers)
                if answer.status_code not in _AGAIN:
                    break
                wanted = _retry_after(answer)
            except httpx2.TransportError as error:
                if self._clock() + wait_s > deadline:
                    raise Unreachable(f"{self.url} does not answer ({_say(error)}): is the service there?") from None
                answer = None
            pause = max(wait_s, wanted or 0.0)
            if answer is not None and self._clock() + pause > deadline:
                break
            self.sleep(min(pause, max(0.0, deadline - self._clock())))
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer.content)
        return answer

    @contextmanager
    def stream(
        self, path: str, *, params: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx2.Response]:
        """Open an answer that is read as it comes. Transport errors pass."""
        timeout = httpx2.Timeout(30.0, read=_SILENCE_S)
        with self._http.stream("GET", path, params=_set(params), headers=headers, timeout=timeout) as answer:
            if answer.status_code >= 400:
                raise error_of(answer.status_code, answer.read())
            yield answer


def _set(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (params or {}).items() if value is not None}


def _retry_after(answer: httpx2.Response) -> float | None:
    given = answer.headers.get("Retry-After", "")
    return float(given) if given.isdecimal() else None


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__
