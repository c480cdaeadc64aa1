"""Events as scalars: a name, a value, and the step at which it holds.

Invariant: a pure function of the events in order, so that whoever goes on with a run counts as before.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from clusterucb.run.events import Evaluated, Event, Looked, Progressed, RoundPlanned, StageStarted, Stepped


@dataclass(frozen=True, slots=True)
class Scalar:
    """One measurement; `time` in seconds since the epoch."""

    name: str
    value: float
    step: int
    time: float


class Scalars:
    """Turns events into scalars; counts samples by stage on the way."""

    def __init__(self) -> None:
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._best: dict[str, float] = {}

    def __call__(self, event: Event) -> list[Scalar]:
        """Return what an event says."""
        match event:
            case StageStarted():
                self._done[event.stage] = max(self._done[event.stage], event.done)
                return []
            case Stepped():
                values = {"loss": event.loss, "learning_rate": event.learning_rate, "norm": event.gradient_norm}
                return self._named(event, event.stage, values, event.step)
            case Progressed():
                return self._progress(event)
            case RoundPlanned():
                values = {"draws": event.draws, "arms": event.arms, "remaining": event.remaining}
                return self._named(event, "rounds", values, event.round)
            case Looked():
                return self._named(event, "looks", {"recall": event.recall, "recall_low": event.low}, event.drawn)
            case Evaluated():
                values = {"loss": event.loss, "accuracy": event.accuracy, "exact_match": event.exact_match}
                return self._named(event, f"held_out/{event.what}", values, event.step or 0)
            case _:
                return []

    def _progress(self, event: Progressed) -> list[Scalar]:
        stage = event.stage
        self._done[stage] += event.samples
        self._failed[stage] += event.failed
        if event.best is not None:
            self._best[stage] = max(event.best, self._best.get(stage, event.best))
        values = {"failed": self._failed[stage], "best": self._best.get(stage)}
        if event.seconds:
            values["tokens_per_second"] = event.tokens / event.seconds
        return self._named(event, stage, values, self._done[stage])

    def _named(self, event: Event, where: str, values: Mapping[str, float | None], step: int) -> list[Scalar]:
        folder = re.sub(r"[^\w./-]+", "_", where.replace(": ", "/").replace(", ", "/"))
        return [
            Scalar(f"{folder}/{name}", float(value), step, event.time)
            for name, value in values.items()
            if value is not None
        ]
