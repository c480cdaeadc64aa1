"""Whether the process lives, and whether it can work: without a token, and without saying more."""

from fastapi import APIRouter, Response
from pydantic import BaseModel

from serve.context import Ctx
from serve.documents import problems

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """A word for probes."""

    status: str


@router.get("/healthz", response_description="The process lives.", responses=problems())
async def healthz() -> Health:
    """Say that the process lives."""
    return Health(status="alive")


@router.get(
    "/readyz",
    response_description="Requests are taken.",
    responses=problems() | {503: {"model": Health, "description": "Requests are not taken yet."}},
)
async def readyz(context: Ctx, response: Response) -> Health:
    """Say whether requests are taken."""
    found = await context.backend.ready()
    if not found.ready:
        response.status_code = 503
    return Health(status="ready" if found.ready else "not ready")
