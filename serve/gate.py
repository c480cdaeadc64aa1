"""What every request passes before anything reads it: Host, token, rate, and a body within its limits.

Invariants: nothing but the public paths is answered without a token, whatever else is wrong with the request; a body is
counted as it comes in, whatever it claims to be, and is not read for strangers; every answer carries the security
headers. Secrets are in no message and no log.
"""

import asyncio
import re
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterucb.config import ServiceConfig
from clusterucb.config.service import LOOPBACK
from clusterucb.errors import ConfigError
from ray_app.service.tokens import Token, TokenFile, looks_like_a_token
from serve.problems import Refused
from serve.rates import Rate

HEALTH = ("/healthz", "/readyz")
_WITH_BODY = ("POST", "PUT", "PATCH", "DELETE")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_JSON = re.compile(r"application/json(\s*;\s*charset=\"?utf-8\"?)?\s*", re.IGNORECASE)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
}


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        config: ServiceConfig,
        tokens: TokenFile,
        clock: Callable[[], float],
        public: Callable[[str], bool],
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._limits = config.limits
        self._public = public
        self._hosts = {name.lower() for name in (*LOOPBACK, "[::1]", config.host, f"[{config.host}]", *config.names)}
        self._requests = Rate(config.limits.requests_per_minute, clock)
        self._failures = Rate(config.limits.failed_authentications_per_minute, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await _close(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            headers, path = Headers(scope=scope), scope["path"]
            if path not in HEALTH:
                self._check_host(headers)
            if not self._public(path):
                scope.setdefault("state", {})["token"] = self._authenticated(scope, headers)
            body = await self._body(scope, headers, receive)
        except Refused as refused:
            response = refused.response()
            if scope["method"] in _WITH_BODY:
                response.headers["Connection"] = "close"  # what is left of the body is nobody's
            return await response(scope, receive, guarded)
        await self._app(scope, _replayed(body, receive), guarded)

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None:
            raise Refused(400, "the request has no Host header, several, or one that is none: send one host name")
        if found[1].lower() not in self._hosts:
            raise Refused(
                421,
                f"this service is not known as {found[1][:80]!r}: use one of its names, or have `names` of its "
                f"configuration list this one",
            )

    def _authenticated(self, scope: Scope, headers: Headers) -> Token:
        found = self._find(headers.getlist("authorization"))
        if isinstance(found, Token):
            if wait := self._requests.take(found.id):
                raise Refused(
                    429,
                    f"token {found.id} of {found.name} asked more than {self._limits.requests_per_minute} times a "
                    f"minute: wait as Retry-After says",
                    headers=_after(wait),
                )
            return found
        client = scope.get("client")
        if wait := self._failures.take(client[0] if client else ""):
            raise Refused(429, "too many requests without a valid token: wait", headers=_after(wait))
        raise Refused(401, found, headers={"WWW-Authenticate": 'Bearer realm="clusterucb"'})

    def _find(self, given: list[str]) -> Token | str:
        """Return the token of the Authorization headers, or what is wrong with them."""
        if len(given) != 1:
            return (
                "the request has several Authorization headers: send one"
                if given
                else "the request has no token: send `Authorization: Bearer TOKEN`; `clusterucb token make` makes one"
            )
        kind, _, secret = given[0].partition(" ")
        if kind.lower() != "bearer" or not looks_like_a_token(secret):
            return "the header Authorization holds no token of this service: send `Bearer TOKEN`"
        try:
            token = self._tokens.find(secret)
        except ConfigError:
            raise Refused(503, "the service cannot read its tokens: its operator has to mend them") from None
        return token or "the token is unknown, revoked or expired: ask for another"

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        if scope["method"] not in _WITH_BODY:
            return b""
        most = self._limits.body_bytes
        claimed = headers.get("content-length", "")
        if claimed.isdecimal() and (len(claimed) > 15 or int(claimed) > most):
            raise _too_large(most)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "the body is compressed, which this service does not read: send it as it is")
        try:
            async with asyncio.timeout(self._limits.body_s):
                body = await _read(receive, most)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self._limits.body_s:g} s: send it faster") from None
        if body and not _JSON.fullmatch(headers.get("content-type", "")):
            raise Refused(
                415, f"the body is {headers.get('content-type', 'of no type')[:80]!r}: send application/json in UTF-8"
            )
        return body


async def _read(receive: Receive, most: int) -> bytes:
    """Take a body in, and stop at the first byte beyond the limit."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the request ended before its body")
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(most: int) -> Refused:
    return Refused(413, f"the body is larger than limits.body_bytes of this service, {most}: send fewer rows")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Hand out a body that was read, then what comes after it."""
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _after(seconds: float) -> dict[str, str]:
    return {"Retry-After": str(max(1, round(seconds)))}


async def _close(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a WebSocket."""
    await send({"type": "websocket.close", "code": 1008})
