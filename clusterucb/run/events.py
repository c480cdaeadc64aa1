"""What happens in a run, one JSON line each, in `events.jsonl`; progress everywhere is derived from these.

Invariant: events are for people and dashboards. No result depends on them: a run resumes without its events, and a
disk that takes no more of them does not end it.
"""

import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from clusterucb.errors import RunFolderError
from clusterucb.run.disk import write_all, writing
from clusterucb.run.replica import NO_REPLICA, Replica
from clusterucb.types import Reason

_SEND_S = 5.0
_LOG = logging.getLogger(__name__)


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    time: float = 0.0
    """Seconds since the epoch; set when the event is written."""


class Started(_Event):
    """A driver began or resumed the run."""

    event: Literal["started"] = "started"
    run: str
    resumed: bool
    workers: int


class Note(_Event):
    """Something the user must hear: a fallback, a skipped row, a fresh adapter."""

    event: Literal["note"] = "note"
    text: str


class StageStarted(_Event):
    """A stage has work: `total` samples, of which `done` were found finished on disk."""

    event: Literal["stage_started"] = "stage_started"
    stage: str
    total: int
    done: int


class Progressed(_Event):
    """A micro-batch of `samples` came back, `failed` of them excluded for the `reasons` given, one each; `best` is its
    largest influence, if any. `reused` were not computed but taken from the store."""

    event: Literal["progressed"] = "progressed"
    stage: str
    samples: int
    tokens: int
    seconds: float
    failed: int = 0
    reasons: tuple[Reason, ...] = ()
    best: float | None = None
    reused: int = 0


class RoundPlanned(_Event):
    """The bandit decided which samples come next."""

    event: Literal["round_planned"] = "round_planned"
    round: int
    draws: int
    arms: int
    remaining: int


class Looked(_Event):
    """An audit certified that at least `low` of the top was scored, `recall` being the estimate; `asked` stops."""

    event: Literal["looked"] = "looked"
    drawn: int
    audited: int
    recall: float
    low: float
    asked: float


class StageFinished(_Event):
    """Everything of a stage is on disk."""

    event: Literal["stage_finished"] = "stage_finished"
    stage: str


class WorkerReady(_Event):
    """A gradient worker has loaded its model."""

    event: Literal["worker_ready"] = "worker_ready"
    worker: int
    device: str
    notes: tuple[str, ...] = ()


class WorkerLost(_Event):
    """A worker died or is restarting; its micro-batches were given back."""

    event: Literal["worker_lost"] = "worker_lost"
    worker: int
    reason: str
    kind: Literal["died", "hung", "node"] = "died"
    """`hung`: it missed a heartbeat or a deadline and was ended; `node`: its machine is gone."""


class WorkerRetired(_Event):
    """A worker died too often in a row and is not started again."""

    event: Literal["worker_retired"] = "worker_retired"
    worker: int
    deaths: int


class Suspected(_Event):
    """A micro-batch of `samples` lost too many workers; it is tried alone and cut until the culprit is found."""

    event: Literal["suspected"] = "suspected"
    stage: str
    job: int
    samples: int


class Waiting(_Event):
    """Nothing can be computed until something returns; `text` says what."""

    event: Literal["waiting"] = "waiting"
    text: str


class Stepped(_Event):
    """An optimizer step was made; `loss` is the mean over its label tokens."""

    event: Literal["stepped"] = "stepped"
    stage: str = "training"
    step: int
    learning_rate: float
    loss: float
    gradient_norm: float
    tokens: int


class Trained(_Event):
    """A training ended: its checkpoint is written."""

    event: Literal["trained"] = "trained"
    steps: int
    loss: float
    """Of the last step."""


class Evaluated(_Event):
    """A model was judged on held-out examples; `what` names it, `step` is the training step it stands at."""

    event: Literal["evaluated"] = "evaluated"
    what: str
    step: int | None = None
    loss: float
    accuracy: float
    exact_match: float | None = None


class Completed(_Event):
    """A loop ended, its final adapter being written, or a study of so many trainings."""

    event: Literal["completed"] = "completed"
    periods: int = 0
    trainings: int = 0


class Finished(_Event):
    """The selection is written."""

    event: Literal["finished"] = "finished"
    selected: int
    scored: int


class Cancelled(_Event):
    """The run was stopped and can be resumed."""

    event: Literal["cancelled"] = "cancelled"


class Failed(_Event):
    """The run ended with an error."""

    event: Literal["failed"] = "failed"
    error: str


Event = Annotated[
    Started
    | Note
    | StageStarted
    | Progressed
    | RoundPlanned
    | Looked
    | StageFinished
    | WorkerReady
    | WorkerLost
    | WorkerRetired
    | Suspected
    | Waiting
    | Stepped
    | Trained
    | Evaluated
    | Completed
    | Finished
    | Cancelled
    | Failed,
    Field(discriminator="event"),
]

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)

Emit = Callable[[Event], None]


def parse_event(line: str) -> Event:
    """Read one line of `events.jsonl`."""
    return _ADAPTER.validate_json(line)


class EventLog:
    """Appends events to a file and keeps the lines of this process for watchers; a replica gets them by and by.

    A disk or store that takes no more is logged, not raised: what ends the run says so itself, and must not be hidden.
    """

    def __init__(self, path: Path, clock: Callable[[], float], replica: Replica = NO_REPLICA) -> None:
        self.lines: list[str] = []
        self._clock = clock
        self._path = path
        self._replica = replica
        self._unsent = b""
        self._sent_at = 0.0
        with writing(path):
            self._file = path.open("a+b", buffering=0)
            self._file.seek(0)
            found = self._file.read()
            self._size = found.rfind(b"\n") + 1
            if self._size < len(found):  # a crash in the middle of a line
                self._file.truncate(self._size)
                replica.cut(path, self._size)

    def __call__(self, event: Event) -> None:
        """Stamp and write one event."""
        now = self._clock()
        line = event.model_copy(update={"time": now}).model_dump_json(exclude_none=True)
        self.lines.append(line)
        self._write((line + "\n").encode())
        if now - self._sent_at >= _SEND_S:
            self.flush()

    def flush(self) -> None:
        """Have the replica hold what was written so far."""
        self._sent_at = self._clock()
        if self._unsent:
            with _logged():
                self._replica.append(self._path, self._size - len(self._unsent), self._unsent)
                self._unsent = b""

    def close(self) -> None:
        """Write through to the disk, send the rest and close."""
        self.flush()
        with _logged():
            with writing(self._path):
                os.fsync(self._file.fileno())
            if not self._unsent:
                self._replica.seal(self._path)
        self._file.close()

    def _write(self, line: bytes) -> None:
        """Append a line, or nothing of it."""
        with _logged():
            try:
                with writing(self._path):
                    write_all(self._file.fileno(), line)
            except RunFolderError:
                self._file.truncate(self._size)
                raise
            self._size += len(line)
            self._unsent += line


@contextmanager
def _logged() -> Generator[None]:
    try:
        yield
    except RunFolderError as error:
        _LOG.warning("events are incomplete: %s", error)
