"""What came out of a run: its rows, its scores, its summary, its report.

Invariant: everything asked for is the run's own file, byte for byte; a part of it is made of the same rows.
"""

import asyncio
import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pyarrow.compute as pc
import pyarrow.parquet as pq
from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from clusterucb.config import Name
from clusterucb.run.run_folder import RunFolder
from ray_app.service.records import RunRecord
from ray_app.service.refusals import Conflict, NotFound
from ray_app.service.requests import LARGEST
from serve.context import Context, Ctx, OwnRun
from serve.documents import problems
from serve.problems import Refused

router = APIRouter(tags=["results"])

JSONL, PARQUET, HTML = "application/x-ndjson", "application/vnd.apache.parquet", "text/html; charset=utf-8"
_TYPES = {"jsonl": JSONL, "parquet": PARQUET}
_CHUNK = 2**18
_ID_COLUMNS = ["id", "rank", "influence"]
_REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; frame-ancestors 'none'; base-uri 'none'"
)
Format = Literal["jsonl", "parquet"]


@router.get(
    "/selections/{run_id}/result",
    response_class=StreamingResponse,
    response_description="JSON lines: the selected rows, best first. Parquet: everything scored.",
    responses={
        200: {
            "content": {
                JSONL: {"schema": {"type": "string"}},
                PARQUET: {"schema": {"type": "string", "format": "binary"}},
            }
        }
    }
    | problems(403, 404, 406, 409, 422),
)
async def get_result(
    record: OwnRun,
    context: Ctx,
    format: Annotated[Format | None, Query(description="Takes the place of the header Accept.")] = None,
    fields: Annotated[
        Literal["rows", "ids"], Query(description="`ids` leaves all but id, rank and influence out.")
    ] = "rows",
    first: Annotated[int | None, Query(ge=1, le=2**53, description="First rank, counted from 1.")] = None,
    last: Annotated[int | None, Query(ge=1, le=2**53, description="Last rank.")] = None,
    target: Annotated[
        Name | None,
        Query(description="Of several targets, the one whose own selection to give; the joint one where left out."),
    ] = None,
    accept: Annotated[str, Header(description=f"{JSONL} or {PARQUET}.")] = "*/*",
) -> Response:
    """Give the result of a finished run: `selection.jsonl`, or `scores.parquet`; with ranks, only the selected ones.

    Of a run for several targets that is the joint selection, and with `target` that target's own.
    """
    if target is not None and target not in record.targets:
        known = f"it has {', '.join(record.targets)}" if record.targets else "it has one target: leave target out"
        raise Refused(422, f"target is {target!r}, and run {record.id} has no selection of that name: {known}")
    chosen = format or _accepted(accept)
    if first is not None and last is not None and last < first:
        raise Refused(422, f"last is {last} and first is {first}: give a last rank that is no smaller")
    folder = await _finished(record, context)
    whole = fields == "rows" and first is None and last is None
    name = f"{record.id}{'' if target is None else f'-{target}'}.{chosen}"
    if chosen == "jsonl":
        path = folder.selection_file if target is None else folder.selection_file_of(target)
        file = await asyncio.to_thread(folder.bring, path)
        return await _file(file, JSONL, name) if whole else _lines(file, first, last, fields == "ids", name)
    file = await asyncio.to_thread(folder.bring, folder.scores_file)
    if whole:
        return await _file(file, PARQUET, name)
    table = await asyncio.to_thread(_scores, file, first, last, fields == "ids", target)
    return Response(table, media_type=PARQUET, headers=_attachment(name))


@router.get(
    "/selections/{run_id}/summary",
    response_class=Response,
    response_description="The run's `summary.json`.",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}} | problems(403, 404, 409, 422),
)
async def get_summary(record: OwnRun, context: Ctx) -> Response:
    """Give the summary of a finished run: composition, cost, an audited estimate of recall."""
    folder = await _finished(record, context)
    file = await asyncio.to_thread(folder.bring, folder.summary_file)
    text = await asyncio.to_thread(file.read_text, encoding="utf-8")
    return Response(context.redact(text), media_type="application/json")


@router.get(
    "/selections/{run_id}/report",
    response_class=Response,
    response_description="A page that stands alone.",
    responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}} | problems(403, 404, 422),
)
async def get_report(record: OwnRun, context: Ctx) -> Response:
    """Give the report of a run, to look at or to keep."""
    folder = RunFolder.open(await context.backend.location(record.id))
    try:
        file = await asyncio.to_thread(folder.bring, folder.report_file)
        return await _file(file, HTML, f"{record.id}.html", {"Content-Security-Policy": _REPORT_POLICY})
    except FileNotFoundError:
        raise NotFound(f"run {record.id} has no report: it comes when the run is finished ({record.status})") from None


async def _finished(record: RunRecord, context: Context) -> RunFolder:
    if record.status != "finished":
        raise Conflict(f"run {record.id} is {record.status}, and a result comes when it is finished: wait for it")
    return RunFolder.open(await context.backend.location(record.id))


def _accepted(accept: str) -> Format:
    """Return the first format that a client accepts, in its order; qualities are not weighed."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for kind in kinds:
        if kind == PARQUET:
            return "parquet"
        if kind in (JSONL, "application/jsonl", "application/*", "*/*", ""):
            return "jsonl"
    raise Refused(406, f"Accept is {accept[:120]!r}: ask for {JSONL} or {PARQUET}, or give format")


async def _file(path: Path, kind: str, name: str, headers: dict[str, str] | None = None) -> Response:
    """Stream a file as it is."""
    size = (await asyncio.to_thread(path.stat)).st_size

    def chunks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    told = {"Content-Length": str(size), **_attachment(name), **(headers or {})}
    return StreamingResponse(chunks(), media_type=kind, headers=told)


def _lines(path: Path, first: int | None, last: int | None, ids: bool, name: str) -> Response:
    """Stream the lines of some ranks."""

    def lines() -> Iterator[bytes]:
        with path.open("rb") as file:
            for line in itertools.islice(file, (first or 1) - 1, last):
                yield _ids_of(line) if ids else line

    return StreamingResponse(_batched(lines()), media_type=JSONL, headers=_attachment(name))


def _batched(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Join lines, so that a chunk is worth sending."""
    while chunk := b"".join(itertools.islice(lines, 256)):
        yield chunk


def _ids_of(line: bytes) -> bytes:
    found = json.loads(line)["clusterucb"]
    return (json.dumps({name: found[name] for name in _ID_COLUMNS}, ensure_ascii=False) + "\n").encode()


def _scores(path: Path, first: int | None, last: int | None, ids: bool, target: str | None) -> bytes:
    """Return a Parquet file of some ranks, or of everything scored; ranks and ids' columns are those of the target."""
    rank, *others = ["rank", "influence"] if target is None else [f"rank/{target}", f"influence/{target}"]
    table = pq.read_table(path, columns=["id", rank, *others] if ids else None)
    if first is not None or last is not None:
        ranks = pc.field(rank)
        table = table.filter((ranks >= (first or 1)) & (ranks <= (last or LARGEST))).sort_by(rank)
    if ids:
        table = table.rename_columns(_ID_COLUMNS)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
