"""The HTTP application of a selection service: routers behind a gate. It knows no Ray.

Invariant: what is served is a function of the configuration, the backend and the tokens that are passed in.
"""

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse

from clusterucb.config import ServiceConfig
from clusterucb.config.service import LOOPBACK
from clusterucb.errors import ConfigError
from ray_app.service.backend import Backend
from ray_app.service.tokens import TokenFile
from serve import catalogue, events, health, measures, pages, results, selections, views
from serve.context import Context, Reader
from serve.documents import describe, problems
from serve.gate import HEALTH, Gate
from serve.looks import Looks
from serve.problems import add_problems
from serve.rates import Watchers
from serve.redaction import redaction

_ABOUT = """Choose the few per cent of a pool most worth fine-tuning on.

Every request but the health checks needs `Authorization: Bearer TOKEN`. A token sees its own runs; one with the scope
`admin` sees all. Errors are problem documents (RFC 9457) that name the field, the value and the way out.
"""


def create_app(
    config: ServiceConfig,
    backend: Backend,
    tokens: TokenFile,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """Return the application. Raises ConfigError where it would listen beyond loopback without a token."""
    check_tokens(config, tokens)
    app = FastAPI(
        title="ClusterUCB selection service",
        version=version("clusterucb-service"),
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    watchers = Watchers(config.limits.watchers, config.limits.watchers_per_token)
    app.state.context = Context(config, backend, tokens, watchers, redaction(config), Looks())
    for part in (selections, events, results, views, measures, catalogue):
        app.include_router(part.router, prefix="/v1")
    app.include_router(health.router)
    app.include_router(pages.pages())
    _add_document(app)
    add_problems(app)
    describe(app, config.catalogue)
    app.add_middleware(
        Gate,
        config=config,
        tokens=tokens,
        clock=clock,
        public=lambda path: path in HEALTH or pages.public(path),
    )
    return app


def check_tokens(config: ServiceConfig, tokens: TokenFile) -> None:
    """Refuse to listen beyond loopback where nobody could be told from anybody."""
    if config.host not in LOOPBACK and not tokens.all():
        raise ConfigError(
            f"host is {config.host} and there is no token: make one with `clusterucb token make NAME`, or listen on "
            f"127.0.0.1"
        )


def _add_document(app: FastAPI) -> None:
    @app.get(
        "/v1/openapi.json",
        tags=["about"],
        response_description="This document.",
        responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}} | problems(403),
    )
    async def openapi(_: Reader) -> Any:
        """Give the OpenAPI document."""
        return JSONResponse(app.openapi())
