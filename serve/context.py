"""What every handler needs: the configuration, the backend, who asks, and what may be told."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPBearer

from clusterucb.config import ServiceConfig
from ray_app.service.backend import Backend
from ray_app.service.records import RUN_ID_PATTERN, RunRecord
from ray_app.service.refusals import NotFound
from ray_app.service.tokens import Scope, Token, TokenFile
from serve.looks import Looks
from serve.problems import Refused
from serve.rates import Watchers
from serve.redaction import Redact

_BEARER = HTTPBearer(auto_error=False, description="A token made by `clusterucb token make`.")


@dataclass(frozen=True, slots=True)
class Context:
    """One application's parts."""

    config: ServiceConfig
    backend: Backend
    tokens: TokenFile
    watchers: Watchers
    redact: Redact
    looks: Looks


async def _context(request: Request) -> Context:  # async: others are each handed to a thread
    return request.app.state.context


def needs(scope: Scope) -> Callable[..., Awaitable[Token]]:
    """Return a dependency: the token that asks, which the gate has found, if it may do what `scope` may."""

    async def caller(request: Request, _: Annotated[object, Security(_BEARER)]) -> Token:
        token: Token = request.state.token
        if not token.may(scope):
            raise Refused(
                403,
                f"token {token.id} of {token.name} has the scope {token.scope}, and this needs {scope}: ask with "
                f"another token",
            )
        return token

    return caller


Ctx = Annotated[Context, Depends(_context)]
Reader = Annotated[Token, Depends(needs("read"))]
Submitter = Annotated[Token, Depends(needs("submit"))]
RunIdPath = Annotated[str, Path(pattern=RUN_ID_PATTERN, description="A run's id.")]


async def _own_run(run_id: RunIdPath, caller: Reader, context: Ctx) -> RunRecord:
    """Return a run that the caller may see; others are told as if they were not there."""
    record = await context.backend.get(run_id)
    if record.owner != caller.name and not caller.may("admin"):
        raise NotFound(f"no run {run_id}: GET /v1/selections lists yours")
    return record


OwnRun = Annotated[RunRecord, Depends(_own_run)]
