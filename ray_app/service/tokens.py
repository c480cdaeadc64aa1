"""Bearer tokens: a file of hashes that the service reads again whenever it changes.

Invariants: a token is shown once, when it is made, and only its SHA-256 is kept. A slow hash (scrypt) protects words
that people choose; a token is 256 random bits, which nobody tries out however fast the hash, and a slow one would let
strangers keep the service busy. A token is compared with every hash in the file, each in constant time, so that the
time tells nothing. A file that cannot be read lets nobody in.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from clusterucb.config import Name, ServiceConfig
from clusterucb.errors import ConfigError
from clusterucb.run.disk import replacing

Scope = Literal["read", "submit", "admin"]
SCOPES: tuple[Scope, ...] = ("read", "submit", "admin")
"""Each may do what those before it may: look at its own runs; start, stop and upload; all of that for every run."""

_TOKEN = re.compile(r"cucb_[A-Za-z0-9_-]{43}")
Clock = Callable[[], datetime]


def now() -> datetime:
    """Return the time of day."""
    return datetime.now(UTC)


class Token(BaseModel):
    """A token as it is kept. Several may have one name: runs belong to the name, so that a token can be replaced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: Name
    scope: Scope
    sha256: str
    created: datetime
    expires: datetime | None = None

    def may(self, scope: Scope) -> bool:
        """Whether it may do what `scope` may."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[Token, ...] = ()


class TokenFile:
    """The tokens of a service."""

    def __init__(self, path: Path, clock: Clock = now) -> None:
        self.path = path
        self._clock = clock
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: tuple[Token, ...] = ()

    def all(self) -> tuple[Token, ...]:
        """Return every token; reads the file where it changed. Raises ConfigError where it is damaged."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._stamp, self._tokens = None, ()
            return ()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            try:
                self._tokens = _File.model_validate_json(self.path.read_bytes()).tokens
            except (OSError, ValidationError):
                self._stamp, self._tokens = None, ()
                raise ConfigError(
                    f"{self.path} is damaged or not readable, so nobody is let in: restore it, or delete it and make "
                    f"new tokens"
                ) from None
            self._stamp = stamp
        return self._tokens

    def find(self, secret: str) -> Token | None:
        """Return the token that `secret` is, unless it has expired."""
        digest = _sha256(secret)
        matching = [token for token in self.all() if hmac.compare_digest(token.sha256, digest)]
        return next((token for token in matching if self._valid(token)), None)

    def holds(self, id: str) -> bool:
        """Whether a token that was found before is still good."""
        return any(token.id == id and self._valid(token) for token in self.all())

    def make(self, name: str, scope: Scope, days: float | None = None) -> tuple[Token, str]:
        """Add a token; return it and, for the only time, its secret."""
        secret = f"cucb_{secrets.token_urlsafe(32)}"
        created = self._clock()
        try:
            token = Token(
                id=secrets.token_hex(4),
                name=name,
                scope=scope,
                sha256=_sha256(secret),
                created=created,
                expires=None if days is None else created + timedelta(days=days),
            )
        except ValidationError:
            raise ConfigError(
                f"token name {name!r} will not do: give at most 64 letters, digits, dots, underscores and dashes"
            ) from None
        self._write((*self.all(), token))
        return token, secret

    def revoke(self, which: str) -> tuple[Token, ...]:
        """Remove the token with this id, or all with this name; return what was removed."""
        everything = self.all()
        gone = tuple(token for token in everything if which in (token.id, token.name))
        if not gone:
            raise ConfigError(f"no token has the id or name {which!r}: `clusterucb token list` shows them")
        self._write(tuple(token for token in everything if token not in gone))
        return gone

    def _valid(self, token: Token) -> bool:
        return token.expires is None or self._clock() < token.expires

    def _write(self, tokens: tuple[Token, ...]) -> None:
        text = json.dumps(_File(tokens=tokens).model_dump(mode="json"), indent=1) + "\n"
        with replacing(self.path) as beside:
            beside.unlink(missing_ok=True)
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)


def tokens_path(service: ServiceConfig) -> Path:
    """Return where a service keeps its tokens."""
    return Path(service.tokens_file) if service.tokens_file else Path(service.folder) / "tokens.json"


def looks_like_a_token(text: str) -> bool:
    """Whether a text has the form of a token, so that nothing else is hashed."""
    return _TOKEN.fullmatch(text) is not None


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
