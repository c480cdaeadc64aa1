"""What requests may name: pools, checkpoints, targets; and targets that users bring."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Response

from clusterucb.config import Name
from clusterucb.config.service import NAME_PATTERN
from ray_app.service.records import Record, StoredTarget
from ray_app.service.requests import TargetUpload
from serve.bodies import StrictRoute, as_json
from serve.context import Ctx, Reader, Submitter
from serve.documents import TARGET_EXAMPLES, problems

router = APIRouter(route_class=StrictRoute, tags=["catalogue"])


class PoolEntry(Record):
    """A pool of the catalogue."""

    name: Name
    description: str


class CheckpointEntry(Record):
    """A checkpoint of the catalogue, and what requests get that say nothing."""

    name: Name
    description: str
    preconditioner: str
    sketch: str
    features: str
    max_length: int


class Pools(Record):
    """The pools of the catalogue."""

    pools: tuple[PoolEntry, ...]


class Checkpoints(Record):
    """The checkpoints of the catalogue, and the features that requests may name."""

    checkpoints: tuple[CheckpointEntry, ...]
    features: tuple[Name, ...]


class Targets(Record):
    """Targets of the catalogue and of the caller."""

    targets: tuple[StoredTarget, ...]


@router.get("/pools", response_description="The pools.", responses=problems(403))
async def list_pools(_: Reader, context: Ctx) -> Pools:
    """List the pools that a selection may name."""
    known = context.config.catalogue.pools
    return Pools(pools=tuple(PoolEntry(name=name, description=pool.description) for name, pool in known.items()))


@router.get("/checkpoints", response_description="The checkpoints.", responses=problems(403))
async def list_checkpoints(_: Reader, context: Ctx) -> Checkpoints:
    """List the checkpoints that a request may name."""
    known = context.config.catalogue
    entries = tuple(
        CheckpointEntry(
            name=name,
            description=checkpoint.description,
            preconditioner=checkpoint.gradients.precondition.kind if checkpoint.model.moments else "plain",
            sketch=checkpoint.gradients.sketch.kind,
            features=checkpoint.features.kind,
            max_length=checkpoint.tokens.max_length,
        )
        for name, checkpoint in known.checkpoints.items()
    )
    return Checkpoints(checkpoints=entries, features=tuple(known.features))


@router.get("/targets", response_description="The targets.", responses=problems(403))
async def list_targets(caller: Reader, context: Ctx) -> Targets:
    """List the targets that a request may name: the catalogue's, and those uploaded with this token."""
    return Targets(targets=await context.backend.targets(caller.name))


@router.post(
    "/targets",
    status_code=201,
    response_description="The target, kept.",
    responses={200: {"model": StoredTarget, "description": "Just this target was there."}}
    | problems(403, 409, body=True),
)
async def upload_target(
    upload: Annotated[TargetUpload, as_json(TargetUpload), Body(openapi_examples=TARGET_EXAMPLES)],
    caller: Submitter,
    context: Ctx,
    response: Response,
) -> StoredTarget:
    """Keep a target under a name, for selections and scores to come."""
    kept, there = await context.backend.keep_target(caller.name, upload)
    if there:
        response.status_code = 200
    return kept


@router.delete(
    "/targets/{name}",
    status_code=204,
    response_description="It is forgotten; runs that use it go on.",
    responses=problems(403, 404, 422),
)
async def delete_target(
    name: Annotated[str, Path(pattern=NAME_PATTERN, description="A target's name.")], caller: Submitter, context: Ctx
) -> None:
    """Forget an uploaded target."""
    await context.backend.drop_target(caller.name, name)
