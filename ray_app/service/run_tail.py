"""One reader of a run for all who watch it: its record and its events, read from its folder now and then.

Invariants: however many watch, files are looked at once a while; an event is told with the place in the file where its
line ends, so that any other reader goes on from there; a record that is over is told with the last events only.
"""

import asyncio
import json
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from ray_app.service.ledger import Ledger
from ray_app.service.records import News, RunEvent, RunRecord, StageProgress

POLL_S = 0.5
_AT_ONCE = 300
_HELD_BYTES = 8 * 2**20
_BLOCK = 256 * 2**10


@dataclass(slots=True)
class _Stages:
    """Progress by stage, from events."""

    found: dict[str, StageProgress]

    def see(self, line: bytes) -> None:
        event = json.loads(line)
        name = event.get("stage")
        if event["event"] == "stage_started":
            self.found[name] = StageProgress(stage=name, done=event["done"], total=event["total"], finished=False)
        elif name in self.found and event["event"] == "progressed":
            stage = self.found[name]
            self.found[name] = stage.model_copy(update={"done": stage.done + event["samples"]})
        elif name in self.found and event["event"] == "stage_finished":
            self.found[name] = self.found[name].model_copy(update={"finished": True})


class RunTail:
    """Follows one run. Raises NotFound where there is none, or none any more."""

    def __init__(self, ledger: Ledger, run_id: str, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._id = run_id
        self._clock = clock
        self._folder = ledger.folder(run_id)
        self._record: RunRecord | None = None
        self._looked = float("-inf")
        self._looking = asyncio.Lock()
        self._changed = asyncio.Event()
        self._read = 0
        self._stages = _Stages({})
        self._ends: list[int] = []
        self._lines: list[str] = []
        self._held = 0
        self.used = clock()

    async def record(self) -> RunRecord:
        """Return the record as it was within the last half second."""
        self.used = self._clock()
        await self._look()
        assert self._record is not None
        return self._record

    async def news(self, after: int, wait_s: float) -> News:
        """Return events beyond a byte of the file and the record; wait a while where there is nothing new."""
        first, deadline = self._record, self._clock() + wait_s
        while True:
            record, changed = await self.record(), self._changed
            events, more = await self._events(after)
            if more and record.over:
                record = record.model_copy(update={"status": "running", "finished": None, "outcome": None})
            left_s = deadline - self._clock()
            if events or record.over or (first is not None and record != first) or left_s <= 0:
                return News(record=record, events=events)
            first = first or record
            try:
                async with asyncio.timeout(min(left_s, POLL_S)):
                    await changed.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        """Read what is new, at most once in a while, for everybody who waits for it."""
        if self._fresh:
            return
        async with self._looking:
            if self._fresh:
                return
            before = (self._record, self._read)
            await asyncio.to_thread(self._read_files)
            self._looked = self._clock()
            if before != (self._record, self._read):
                self._changed.set()
                self._changed = asyncio.Event()

    @property
    def _fresh(self) -> bool:
        if self._record is None:
            return False
        return self._record.over or self._clock() - self._looked < POLL_S

    def _read_files(self) -> None:
        record = self._ledger.record(self._id)  # before the events: an end is told with all of them
        whole, newline, _ = self._folder.read_events(self._read).rpartition(b"\n")
        if newline:
            for line in whole.split(b"\n"):
                self._read += len(line) + 1
                self._stages.see(line)
                self._hold(line)
        self._record = record.model_copy(update={"stages": tuple(self._stages.found.values())})

    def _hold(self, line: bytes) -> None:
        self._ends.append(self._read)
        self._lines.append(line.decode())
        self._held += len(line)
        if self._held > _HELD_BYTES:  # whoever asks for older ones has them from the file
            gone = len(self._lines) // 2
            self._held -= sum(map(len, self._lines[:gone]))
            del self._ends[:gone], self._lines[:gone]

    async def _events(self, after: int) -> tuple[tuple[RunEvent, ...], bool]:
        """Return some events that end beyond a byte, and whether there are more."""
        start = self._ends[0] - len(self._lines[0].encode()) - 1 if self._ends else self._read
        if after >= start:
            first = bisect_right(self._ends, after)
            last = min(len(self._ends), first + _AT_ONCE)
            pairs = zip(self._ends[first:last], self._lines[first:last], strict=True)
            return tuple(RunEvent(id=end, line=line) for end, line in pairs), last < len(self._ends)
        return await asyncio.to_thread(self._older, after), True

    def _older(self, after: int) -> tuple[RunEvent, ...]:
        """Return events from the file: those that end beyond a byte in the midst of it."""
        events: list[RunEvent] = []
        place = 0
        with self._folder.bring(self._folder.events_file).open("rb") as file:
            if after:  # the line that a byte lies in begins behind the newline before it
                place = max(0, after - _BLOCK)
                file.seek(place)
                place += file.read(after - place).rfind(b"\n") + 1
                file.seek(place)
            for line in file:
                if len(events) == _AT_ONCE or not line.endswith(b"\n"):
                    break
                place += len(line)
                events.append(RunEvent(id=place, line=line[:-1].decode()))
        return tuple(events)
