"""Following a run: its event stream, opened again where it broke off, and polling where streams do not get through.

Invariants: events come in order and once each, whatever dies meanwhile; what is not told while it happens is told from
the stream of the run that is over; the last thing is the record of a run that is over.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
from pydantic import ValidationError

from clusterucb.run.events import Event, parse_event
from ray_app.client.connection import Connection
from ray_app.client.errors import ServiceError, TooMuch
from ray_app.service.records import RunRecord

_BARREN = 3
"""Streams in a row that break off with nothing new, before records are polled instead."""
_REFUSED = 12
"""Streams of a run that is over that are asked for, before its events are given up."""
_POLL_S = 2.0
_FAULT = 500


@dataclass(frozen=True, slots=True)
class Message:
    """One server-sent event."""

    kind: str
    data: str
    id: int | None


class _Follower:
    """Where a client has got to in a run."""

    def __init__(self, connection: Connection, run_id: str, after: int) -> None:
        self._connection = connection
        self._path = f"/v1/selections/{run_id}"
        self._after = after
        self.shown: RunRecord | None = None
        self.barren = 0
        """Streams in a row that were let in and told nothing."""
        self.refused = 0
        """Streams in a row that were not let in."""

    @property
    def over(self) -> bool:
        """Whether the record of a run that is over was told."""
        return self.shown is not None and self.shown.over

    def stream(self) -> Iterator[Event | RunRecord]:
        """Yield what one stream tells, until it ends or breaks off."""
        headers = {"Last-Event-ID": str(self._after)}
        let_in = False
        try:
            with self._connection.stream(f"{self._path}/events", headers=headers) as answer:
                let_in = True
                self.barren += 1
                for message in messages(answer.iter_lines()):
                    self.barren = self.refused = 0
                    if message.kind == "record":
                        yield from self._tell(RunRecord.model_validate_json(message.data))
                        if self.over:
                            return
                        continue
                    self._after = self._after if message.id is None else message.id
                    if (event := _event(message.data)) is not None:
                        yield event
        except httpx2.TransportError:
            self.refused += not let_in  # nobody is there, or something between lets no stream through
        except ServiceError as error:
            if not (isinstance(error, TooMuch) or (error.status or 0) >= _FAULT):
                raise
            self.refused += 1  # no more watchers are let in, or no replica is ready

    def record(self) -> RunRecord:
        """Ask for the record, patiently. Raises Unreachable where patience ends."""
        return RunRecord.model_validate_json(self._connection.ask("GET", self._path).content)

    def poll(self) -> Iterator[RunRecord]:
        """Yield the record as it changes, until the run is over; that record is left to the stream's end."""
        while not (record := self.record()).over:
            yield from self._tell(record)
            self._connection.sleep(_POLL_S)

    def end(self) -> Iterator[RunRecord]:
        """Yield the last record where no stream tells it."""
        yield from self._tell(self.record())

    def _tell(self, record: RunRecord) -> Iterator[RunRecord]:
        if record != self.shown:
            self.shown = record
            yield record


def follow(connection: Connection, run_id: str, after: int = 0) -> Iterator[Event | RunRecord]:
    """Yield a run's events beyond `after`, and its record whenever its state changes, until it is over.

    Raises Unreachable where the service is away for longer than the connection's patience.
    """
    follower = _Follower(connection, run_id, after)
    while True:
        yield from follower.stream()
        if follower.over:
            return
        if follower.barren + follower.refused >= _BARREN:
            break
        follower.record()  # waits for a service that is away
        connection.sleep(min(_POLL_S, 0.25 * 2 ** (follower.barren + follower.refused)))
    yield from follower.poll()
    follower.barren = follower.refused = 0
    while not follower.over and follower.barren < _BARREN and follower.refused < _REFUSED:
        yield from follower.stream()  # one that ends gets through where others do not
        if not follower.over:
            connection.sleep(min(_POLL_S, 0.25 * 2 ** (follower.barren + follower.refused)))
            follower.record()
    if not follower.over:
        yield from follower.end()


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
