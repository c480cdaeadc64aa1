"""Prometheus metrics of a run, derived from its events: what a dashboard and an alert need, defined here once.

Ray exports them on every node's metrics port under the names that `Metric.series` gives; they carry the run's name and,
where it helps, the stage or the kind, never a sample, a cluster or a worker. Invariant: no result depends on them.
"""

from dataclasses import dataclass
from typing import Literal

from ray.util.metrics import Counter, Gauge, Histogram

from clusterucb.run.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Progressed,
    RoundPlanned,
    StageFinished,
    StageStarted,
    Started,
    Suspected,
    Waiting,
    WorkerLost,
    WorkerRetired,
)

_BATCH_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `tags` come beside the run's name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    tags: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus finds it."""
        match self.kind:
            case "counter":
                return (f"ray_{self.name}_total",)
            case "gauge":
                return (f"ray_{self.name}",)
            case "histogram":
                return tuple(f"ray_{self.name}_{part}" for part in ("bucket", "sum", "count"))


SAMPLES = Metric("clusterucb_samples", "counter", "Samples that came back, excluded ones included.", ("stage",))
TOKENS = Metric("clusterucb_tokens", "counter", "Tokens of the samples that came back.", ("stage",))
BUSY_SECONDS = Metric("clusterucb_busy_seconds", "counter", "Seconds that workers spent computing.", ("stage",))
"""The share of time that workers compute is its rate over `clusterucb_workers`; a histogram's sum would not do, since
Ray makes it from the middles of the buckets."""
BATCH_SECONDS = Metric("clusterucb_batch_seconds", "histogram", "Seconds a worker took for a micro-batch.", ("stage",))
EXCLUDED = Metric("clusterucb_excluded_samples", "counter", "Samples excluded, by reason.", ("stage", "kind"))
STAGE_SHARE = Metric("clusterucb_stage_done_share", "gauge", "Share of a stage's samples that are done.", ("stage",))
BUDGET_SPENT = Metric("clusterucb_budget_spent_share", "gauge", "Share of the budget whose draws are planned.")
BUDGET_LEFT = Metric("clusterucb_budget_remaining_share", "gauge", "Share of the budget that can still be planned.")
ROUNDS = Metric("clusterucb_rounds", "gauge", "Rounds the bandit has planned.")
DRAWS = Metric("clusterucb_draws", "gauge", "Draws the bandit has planned.")
BEST = Metric("clusterucb_best_influence", "gauge", "Largest influence seen since the coordinator started.")
IN_FLIGHT = Metric("clusterucb_in_flight_batches", "gauge", "Micro-batches sent to workers and not yet answered.")
WORKERS = Metric("clusterucb_workers", "gauge", "Workers that take micro-batches.")
BUSY_WORKERS = Metric("clusterucb_busy_workers", "gauge", "Workers that hold at least one micro-batch.")
WORKERS_LOST = Metric(
    "clusterucb_workers_lost", "counter", "Workers lost: died, hung or gone with their node.", ("kind",)
)
WORKERS_RETIRED = Metric("clusterucb_workers_retired", "counter", "Workers given up after repeated deaths.")
SUSPECTED = Metric("clusterucb_suspected_batches", "counter", "Micro-batches suspected of killing workers.", ("stage",))
WAITING = Metric("clusterucb_waiting", "gauge", "1 while nothing can be computed, for want of workers; else 0.")
ENDED = Metric("clusterucb_runs_ended", "counter", "Ends of the run: finished, cancelled or failed.", ("kind",))

METRICS = (
    SAMPLES, TOKENS, BUSY_SECONDS, BATCH_SECONDS, EXCLUDED, STAGE_SHARE, BUDGET_SPENT, BUDGET_LEFT, ROUNDS, DRAWS, BEST,
    IN_FLIGHT, WORKERS, BUSY_WORKERS, WORKERS_LOST, WORKERS_RETIRED, SUSPECTED, WAITING, ENDED,
)  # fmt: skip


class RunMetrics:
    """Keeps the metrics of one run: call it with every event, and tell it what is in flight."""

    def __init__(self, run: str) -> None:
        self._counters = {m: Counter(m.name, m.text, ("run", *m.tags)) for m in METRICS if m.kind == "counter"}
        self._gauges = {m: Gauge(m.name, m.text, ("run", *m.tags)) for m in METRICS if m.kind == "gauge"}
        self._histograms = {
            m: Histogram(m.name, m.text, _BATCH_SECONDS, ("run", *m.tags)) for m in METRICS if m.kind == "histogram"
        }
        for built in (*self._counters.values(), *self._gauges.values(), *self._histograms.values()):
            built.set_default_tags({"run": run})
        self._draws = 0
        self._budget = 0
        self._best = float("-inf")
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}

    def in_flight(self, jobs: int, workers: int, busy: int) -> None:
        """Set how many micro-batches are out, how many workers take them and how many of those hold one."""
        self._set(IN_FLIGHT, jobs)
        self._set(WORKERS, workers)
        self._set(BUSY_WORKERS, busy)
        if workers:
            self._set(WAITING, 0)

    def __call__(self, event: Event) -> None:
        """Count one event."""
        match event:
            case Started():
                self._set(WAITING, 0)
                self.in_flight(0, 0, 0)
            case StageStarted():
                self._totals[event.stage], self._done[event.stage] = event.total, event.done
                if event.stage == "search":
                    self._budget = event.total
                self._share(event.stage)
            case Progressed():
                self._progressed(event)
            case RoundPlanned():
                self._planned(event)
            case StageFinished():
                self._set(STAGE_SHARE, 1, stage=event.stage)
            case WorkerLost():
                self._add(WORKERS_LOST, 1, kind=event.kind)
            case WorkerRetired():
                self._add(WORKERS_RETIRED, 1)
            case Suspected():
                self._add(SUSPECTED, 1, stage=event.stage)
            case Waiting():
                self._set(WAITING, 1)
            case Finished() | Cancelled() | Failed():
                self._add(ENDED, 1, kind=event.event)
                self._set(WAITING, 0)
                self.in_flight(0, 0, 0)
            case _:
                pass

    def _progressed(self, event: Progressed) -> None:
        self._add(SAMPLES, event.samples, stage=event.stage)
        self._add(TOKENS, event.tokens, stage=event.stage)
        self._add(BUSY_SECONDS, event.seconds, stage=event.stage)
        self._histograms[BATCH_SECONDS].observe(event.seconds, {"stage": event.stage})
        for reason in event.reasons:
            self._add(EXCLUDED, 1, stage=event.stage, kind=reason)
        self._done[event.stage] = self._done.get(event.stage, 0) + event.samples
        self._share(event.stage)
        if event.best is not None:
            self._best = max(self._best, event.best)
            self._set(BEST, self._best)

    def _planned(self, event: RoundPlanned) -> None:
        self._draws += event.draws
        self._set(DRAWS, self._draws)
        self._set(ROUNDS, event.round + 1)
        if self._budget:
            left = event.remaining / self._budget
            self._set(BUDGET_LEFT, left)
            self._set(BUDGET_SPENT, 1 - left)

    def _share(self, stage: str) -> None:
        total = self._totals.get(stage, 0)
        if total:
            self._set(STAGE_SHARE, min(1.0, self._done[stage] / total), stage=stage)

    def _add(self, metric: Metric, amount: float, **tags: str) -> None:
        if amount > 0:  # Ray refuses to add nothing
            self._counters[metric].inc(amount, tags)

    def _set(self, metric: Metric, value: float, **tags: str) -> None:
        self._gauges[metric].set(value, tags)
