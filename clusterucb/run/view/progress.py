"""How far a run is, from its events alone."""

from clusterucb.run.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Note,
    Progressed,
    StageFinished,
    StageStarted,
    Started,
    Waiting,
    WorkerLost,
    WorkerReady,
    parse_event,
)
from clusterucb.run.view.model import Progress, StageView, State

_NOTES = 60
_NOTE_CHARACTERS = 600


class ProgressSoFar:
    """Takes what events are written; `progress` is where they have led."""

    def __init__(self) -> None:
        self.read_to = 0
        self._state: State = "prepared"
        self._error: str | None = None
        self._began: float | None = None
        self._latest: float | None = None
        self._starts = self._workers = self._lost = self._num_notes = 0
        self._stages: dict[str, StageView] = {}
        self._notes: list[str] = []
        self._waiting: str | None = None

    def add(self, data: bytes) -> None:
        """Go on with what follows in `events.jsonl`; a line that is still being written waits for the next call."""
        whole, newline, _ = data.rpartition(b"\n")
        self.read_to += len(whole) + len(newline)
        for line in whole.splitlines():
            event = parse_event(line.decode())
            self._latest = event.time
            self._waiting = event.text if isinstance(event, Waiting) else None
            self._add(event)

    def progress(self, state: State | None = None) -> Progress:
        """Return where the run is; `state` where the folder knows better than its events."""
        return Progress(
            state=state or self._state,
            error=self._error,
            began=self._began,
            latest=self._latest,
            resumed=max(0, self._starts - 1),
            workers=self._workers,
            lost=self._lost,
            stages=tuple(self._stages.values()),
            notes=tuple(self._notes),
            more_notes=self._num_notes - len(self._notes),
            waiting=self._waiting,
            read_to=self.read_to,
        )

    def _add(self, event: Event) -> None:
        match event:
            case Started():
                self._state, self._error, self._workers = "running", None, event.workers
                self._began = event.time if self._began is None else self._began
                self._starts += 1
            case StageStarted() | Progressed() | StageFinished():
                self._stages[event.stage] = _stage(self._stages.get(event.stage), event)
            case Note():
                self._note(event.text)
            case WorkerReady():
                for note in event.notes:
                    self._note(note)
            case WorkerLost():
                self._lost += 1
            case Finished() | Cancelled():
                self._state = event.event
            case Failed():
                self._state, self._error = "failed", event.error
            case _:
                pass

    def _note(self, text: str) -> None:
        if text in self._notes:
            return
        self._num_notes += 1
        if len(self._notes) < _NOTES:
            cut = len(text) > _NOTE_CHARACTERS
            self._notes.append(text[: _NOTE_CHARACTERS - 1] + "…" if cut else text)


def _stage(before: StageView | None, event: StageStarted | Progressed | StageFinished) -> StageView:
    """Go on with a stage; one that a resumed run takes up again keeps what it cost before."""
    now = before or StageView(
        stage=event.stage,
        done=0,
        total=0,
        failed=0,
        tokens=0,
        seconds=0.0,
        best=None,
        began=event.time,
        ended=None,
    )
    match event:
        case StageStarted():
            return now.model_copy(update={"done": event.done, "total": event.total, "ended": None})
        case Progressed():
            best = [value for value in (now.best, event.best) if value is not None]
            return now.model_copy(
                update={
                    "done": now.done + event.samples,
                    "failed": now.failed + event.failed,
                    "tokens": now.tokens + event.tokens,
                    "seconds": now.seconds + event.seconds,
                    "best": max(best, default=None),
                }
            )
        case StageFinished():
            return now.model_copy(update={"ended": event.time})
