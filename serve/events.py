"""A run's events as they happen: server-sent events that can be resumed.

Invariant: `id` is the place in the run's own `events.jsonl`, so that any replica goes on after any other; a stream ends
with the record of a run that is over, and who has seen that has seen every event.
"""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ray_app.service.records import RunEvent, RunRecord
from ray_app.service.tokens import Token
from serve.context import Context, Ctx, OwnRun, Reader
from serve.documents import problems
from serve.selections import told

router = APIRouter(tags=["selections"])

HEARTBEAT_S = 15.0
_EVENT = {  # of each event: it is how a stream is described, and how it is checked
    "type": "object",
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["event", "data"],
}
_RECONNECT_MS = 1000
"""After which browsers come back, to any replica, where theirs was replaced."""
_EXAMPLE = (
    'event: record\ndata: {"id":"…","status":"running"}\n\n'
    'id: 311\nevent: progressed\ndata: {"event":"progressed","stage":"search","samples":8}\n\n'
    ": still here\n\n"
)


class _EventStream(StreamingResponse):
    """A stream that holds a watcher's slot from its first byte to its last."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[str], context: Context, name: str) -> None:
        super().__init__(content, headers={"X-Accel-Buffering": "no"})
        self._watchers, self._name = context.watchers, name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._watchers.one(self._name):
            await super().__call__(scope, receive, send)


@router.get(
    "/selections/{run_id}/events",
    response_class=StreamingResponse,
    response_description="`record` whenever the run's state changes, every event of the run under its own name, a "
    "comment every few seconds.",
    responses={200: {"content": {"text/event-stream": {"schema": _EVENT, "example": _EXAMPLE}}}}
    | problems(403, 404, 422),
)
async def watch_selection(
    record: OwnRun,
    caller: Reader,
    context: Ctx,
    last_event_id: Annotated[
        int, Header(ge=0, le=2**40, description="Go on after this event: the `id` seen last.")
    ] = 0,
) -> StreamingResponse:
    """Watch a run until it ends."""
    return _EventStream(_stream(record, caller, context, last_event_id), context, caller.name)


def _told(event: RunEvent, context: Context) -> str:
    kind = json.loads(event.line).get("event", "message")
    return f"id: {event.id}\nevent: {kind}\ndata: {context.redact(event.line)}\n\n"


async def _stream(record: RunRecord, caller: Token, context: Context, after: int) -> AsyncIterator[str]:
    shown: dict[str, Any] | None = None
    wait_s = 0.0
    while True:
        news = await context.backend.news(record.id, after, wait_s)
        wait_s = HEARTBEAT_S
        if news.events:  # in one piece: a message each, through proxy and replica, costs more than all else here
            yield "".join(_told(event, context) for event in news.events)
            after = news.events[-1].id
        record = told(news.record, context)
        state = record.model_dump(include={"status", "queue_position", "error"})
        if state != shown or record.over:
            shown = state
            yield f"retry: {_RECONNECT_MS}\nevent: record\ndata: {record.model_dump_json()}\n\n"
        elif not news.events:
            yield ": still here\n\n"
        if record.over or not context.tokens.holds(caller.id):
            return
