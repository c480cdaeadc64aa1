"""How a run looks, as data: what the page draws, live while it goes."""

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from clusterucb.run.run_folder import RunFolder
from clusterucb.run.view.model import RunView
from ray_app.service.refusals import Conflict
from serve.context import Ctx, OwnRun
from serve.documents import problems

router = APIRouter(tags=["results"])


@router.get(
    "/selections/{run_id}/view",
    response_class=Response,
    response_description="What the page shows of a run.",
    responses={200: {"model": RunView}} | problems(403, 404, 409, 422),
)
async def get_view(record: OwnRun, context: Ctx) -> Response:
    """Tell how a run looks: distributions in bins, clusters as arms, cost, samples to read. Its size has a limit."""
    folder = await asyncio.to_thread(RunFolder.open, await context.backend.location(record.id))
    if not await asyncio.to_thread(lambda: folder.exists):
        raise Conflict(f"run {record.id} is {record.status} and has nothing to show: look again once it runs")
    view = await context.looks.view(folder)
    return Response(context.redact(view.model_dump_json()), media_type="application/json")
