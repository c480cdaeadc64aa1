"""Following a run: its event stream, opened again where it broke off, and polling where streams do not get through.

Invariant: events come in order and once each; the last thing is the record of a run that is over.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
from pydantic import ValidationError

from clusterucb.run.events import Event, parse_event
from ray_app.client.connection import Connection
from ray_app.client.errors import TooMuch
from ray_app.service.records import RunRecord

_BARREN = 3
"""Streams in a row that break off with nothing new, before records are polled instead."""
_POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event."""

    kind: str
    data: str
    id: int | None


def follow(connection: Connection, run_id: str, after: int = 0) -> Iterator[Event | RunRecord]:
    """Yield a run's events beyond `after`, and its record whenever its state changes, until it is over."""
    path, barren = f"/v1/selections/{run_id}/events", 0
    while barren < _BARREN:
        barren += 1
        try:
            with connection.stream(path, headers={"Last-Event-ID": str(after)}) as answer:
                for message in messages(answer.iter_lines()):
                    barren = 0
                    if message.kind == "record":
                        record = RunRecord.model_validate_json(message.data)
                        yield record
                        if record.over:
                            return
                        continue
                    after = after if message.id is None else message.id
                    if (event := _event(message.data)) is not None:
                        yield event
        except httpx2.TransportError:
            pass
        except TooMuch:
            break  # no more watchers are let in: ask now and then
        connection.sleep(min(_POLL_S, 0.25 * 2**barren))
    yield from _poll(connection, run_id)


def _poll(connection: Connection, run_id: str) -> Iterator[RunRecord]:
    shown: RunRecord | None = None
    while True:
        record = RunRecord.model_validate_json(connection.ask("GET", f"/v1/selections/{run_id}").content)
        if record != shown:
            yield record
        if record.over:
            return
        shown = record
        connection.sleep(_POLL_S)


def messages(lines: Iterator[str]) -> Iterator[Message]:
    """Read server-sent events from lines; comments and half a message at the end are passed over."""
    kind, data, id = "message", list[str](), None
    for line in lines:
        if not line:
            if data:
                yield Message(kind, "\n".join(data), id)
            kind, data, id = "message", [], None
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id" and value.isdecimal():
            id = int(value)


def _event(line: str) -> Event | None:
    """Return an event, or none where a newer service tells what this client does not know."""
    try:
        return parse_event(line)
    except (ValidationError, json.JSONDecodeError):
        return None
