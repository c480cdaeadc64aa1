"""Runs: start, list, look at, cancel."""

from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Response

from clusterucb.config import Name
from ray_app.service.records import RunFilter, RunId, RunPage, RunRecord, RunStatus
from ray_app.service.requests import SelectionRequest
from serve.bodies import StrictRoute, as_json
from serve.context import Context, Ctx, OwnRun, Reader, Submitter
from serve.documents import SELECTION_EXAMPLES, problems
from serve.problems import Refused

router = APIRouter(route_class=StrictRoute, tags=["selections"])

_LOCATION = {"Location": {"description": "Where the run is.", "schema": {"type": "string"}}}
_REPLAYED = {
    "Idempotency-Replayed": {
        "description": "`true` where the key had already brought this request.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=128,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key with the same request gives the same run, however often it is sent.",
    ),
]


@router.post(
    "/selections",
    status_code=202,
    response_description="The run, queued.",
    responses={202: {"headers": _LOCATION | _REPLAYED}} | problems(403, body=True),
)
async def start_selection(
    request: Annotated[SelectionRequest, as_json(SelectionRequest), Body(openapi_examples=SELECTION_EXAMPLES)],
    caller: Submitter,
    context: Ctx,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> RunRecord:
    """Start a selection. It waits for its turn, and outlives the service."""
    record, replayed = await context.backend.submit(caller.name, request, idempotency_key)
    response.headers["Location"] = f"/v1/selections/{record.id}"
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return told(record, context)


@router.get("/selections", response_description="Some runs.", responses=problems(403, 422))
async def list_selections(
    caller: Reader,
    context: Ctx,
    status: Annotated[RunStatus | None, Query(description="Only runs in this state.")] = None,
    pool: Annotated[Name | None, Query(description="Only runs over this pool.")] = None,
    owner: Annotated[Name | None, Query(description="Only runs of this token's name; others' need an admin.")] = None,
    before: Annotated[RunId | None, Query(description="Only older runs: `next` of the last page.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Runs in a page.")] = 20,
) -> RunPage:
    """List runs, the newest first."""
    if not caller.may("admin"):
        if owner not in (None, caller.name):
            raise Refused(403, f"runs of {owner} are shown to admins only: leave owner out")
        owner = caller.name
    page = await context.backend.list(RunFilter(owner=owner, status=status, pool=pool), before, limit)
    return page.model_copy(update={"runs": tuple(told(record, context) for record in page.runs)})


@router.get("/selections/{run_id}", response_description="The run.", responses=problems(403, 404, 422))
async def get_selection(record: OwnRun, context: Ctx) -> RunRecord:
    """Say how far a run is."""
    return told(record, context)


@router.delete(
    "/selections/{run_id}",
    status_code=202,
    response_description="The run as it stands; it stops within seconds unless it was over.",
    responses=problems(403, 404, 422),
)
async def cancel_selection(record: OwnRun, _: Submitter, context: Ctx) -> RunRecord:
    """Stop a run. What was computed is kept for others."""
    return told(await context.backend.cancel(record.id), context)


def told(record: RunRecord, context: Context) -> RunRecord:
    """Return a record without paths of this machine."""
    if record.error is None:
        return record
    return record.model_copy(update={"error": context.redact(record.error)})
