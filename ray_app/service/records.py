"""What a service tells of its runs: frozen, and the same on disk, between processes and on the wire.

Invariant: no path of the service's machine is in a record; pools, checkpoints and targets go by name, the examples of
an inline target by the digest of their bytes.
"""

import secrets
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ray_app.service.requests import SelectionRequest

RUN_ID_PATTERN = r"^[0-9a-f]{28}$"
RunId = Annotated[str, StringConstraints(pattern=RUN_ID_PATTERN)]
RunStatus = Literal["queued", "running", "finished", "failed", "cancelled"]
OVER: tuple[RunStatus, ...] = ("finished", "failed", "cancelled")


def new_run_id(milliseconds: int) -> str:
    """Return an id that sorts by time of creation and that nobody guesses."""
    return f"{milliseconds:012x}{secrets.token_hex(8)}"


class Record(BaseModel):
    """A frozen part of what is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StageProgress(Record):
    """How far one stage of a run is, in samples."""

    stage: str
    done: int
    total: int
    finished: bool


class GradientCounts(Record):
    """How many of the gradients that a run needed were there from earlier requests."""

    reused: int
    computed: int


class Outcome(Record):
    """What a finished run found, in short; its summary has the rest."""

    scored: int
    selected: int
    pool: int


class RunRecord(Record):
    """One run of a service."""

    id: RunId
    owner: str
    """Name of the token that asked for it."""
    status: RunStatus
    pool: str
    checkpoint: str
    target: str
    """A name, or `inline:` and the digest of the rows that were sent; of several targets all names."""
    targets: tuple[str, ...] = ()
    """Names of several targets; each has a selection of its own."""
    label: str
    settings: dict[str, Any]
    """The other sections of the request, as they were asked for."""
    created: datetime
    started: datetime | None = None
    finished: datetime | None = None
    queue_position: int | None = None
    """0 is next; none once it is no longer queued."""
    stages: tuple[StageProgress, ...] = ()
    gradients: GradientCounts | None = None
    """Once known."""
    outcome: Outcome | None = None
    error: str | None = None
    """Why it failed, and the way out."""

    @property
    def over(self) -> bool:
        """Whether nothing changes any more."""
        return self.status in OVER


def settings_of(request: SelectionRequest) -> dict[str, Any]:
    """Return what a record says of a request's sections: those that were set."""
    named = {"pool", "checkpoint", "target", "targets", "label"}
    return request.model_dump(mode="json", exclude=named, exclude_unset=True)


class RunFilter(Record):
    """Which runs a list shows; fields that are none let all pass."""

    owner: str | None = None
    status: RunStatus | None = None
    pool: str | None = None


class RunPage(Record):
    """Some runs, the newest first."""

    runs: tuple[RunRecord, ...]
    next: RunId | None = None
    """Give it as `before` for the following page; none at the end."""


class RunEvent(Record):
    """A line of a run's `events.jsonl`."""

    id: int = Field(ge=0)
    """Bytes of the file up to the end of the line: the place to go on from."""
    line: str
    """The line itself, JSON of `clusterucb.run.events.Event`."""


class News(Record):
    """What is new in a run: the record as it stands, and events."""

    record: RunRecord
    events: tuple[RunEvent, ...]


class ScoredSample(Record):
    """Influence of one sample that was sent."""

    id: str
    rank: int
    influence: float
    subtask: str
    loss: float


class Scores(Record):
    """Influence of samples, best first."""

    scores: tuple[ScoredSample, ...]
    excluded: dict[str, int] = {}
    """Reasons, and how many samples were left out for each; they are those without a score."""
    gradients: GradientCounts


class PlannedRows(Record):
    """What became of the rows of a pool or target."""

    samples: int
    usable: int
    tokens: int
    truncated: int


class Plan(Record):
    """What a selection will cost."""

    pool: PlannedRows
    target: PlannedRows
    subtasks: int
    clusters: int | None
    budget: int
    """Samples that are scored for the selection; the audit comes on top."""
    selected: int
    rounds: int
    gradients: int
    """Backward passes, target and audit included, before any that are reused."""
    share_of_exhaustive_gradients: float
    share_of_exhaustive_tokens: float
    worker_memory_bytes: int
    disk_bytes: int
    wall_seconds: float | None = None
    """None where no worker was timed."""
    notes: tuple[str, ...] = ()


class StoredTarget(Record):
    """A target that requests may name."""

    name: str
    description: str
    origin: Literal["catalogue", "uploaded"]
    rows: int | None
    """None where the catalogue's file was not counted."""
    subtask_field: str | None


class Readiness(Record):
    """Whether a service takes requests, and what it is waiting for."""

    ready: bool
    reason: str = ""
    queued: int = 0
    running: int = 0
