"""What a selection would cost, and what given samples are worth: answered at once, within a limit of time."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body

from ray_app.service.records import Plan, Scores
from ray_app.service.refusals import Unavailable
from ray_app.service.requests import ScoreRequest, SelectionRequest
from ray_app.service.shelf import check_count
from serve.bodies import StrictRoute, as_json
from serve.context import Context, Ctx, Submitter
from serve.documents import SCORE_EXAMPLES, SELECTION_EXAMPLES, problems

router = APIRouter(route_class=StrictRoute, tags=["plans and scores"])
_T = TypeVar("_T")


@router.post("/plans", response_description="The cost.", responses=problems(403, body=True))
async def plan_selection(
    request: Annotated[SelectionRequest, as_json(SelectionRequest), Body(openapi_examples=SELECTION_EXAMPLES)],
    caller: Submitter,
    context: Ctx,
) -> Plan:
    """Say what a selection would cost, without starting it."""
    plan = await _in_time(context.backend.plan(caller.name, request), context, "take a smaller pool")
    return plan.model_copy(update={"notes": tuple(map(context.redact, plan.notes))})


@router.post("/scores", response_description="The influence of each sample.", responses=problems(403, body=True))
async def score_samples(
    request: Annotated[ScoreRequest, as_json(ScoreRequest), Body(openapi_examples=SCORE_EXAMPLES)],
    caller: Submitter,
    context: Ctx,
) -> Scores:
    """Say how much training on given samples would help, best first."""
    check_count(request.rows, context.config.limits.score_rows, "rows", "limits.score_rows")
    return await _in_time(context.backend.score(caller.name, request), context, "send fewer rows")


async def _in_time(answer: Coroutine[Any, Any, _T], context: Context, way_out: str) -> _T:
    limit = context.config.limits.answer_s
    try:
        return await asyncio.wait_for(answer, limit)
    except TimeoutError:
        raise Unavailable(f"there was no answer within {limit:g} s: try again later, or {way_out}", 30.0) from None
