"""Prometheus metrics of a service; those of its runs are the coordinators', those of HTTP are Ray Serve's.

Invariant: no run's id and no token's name is a label.
"""

from ray.util.metrics import Counter, Gauge

from actors.metrics import Metric

QUEUED = Metric("clusterucb_service_queued_runs", "gauge", "Runs that wait for their turn.")
RUNNING = Metric("clusterucb_service_running_runs", "gauge", "Runs that compute, or are prepared to.")
WORKERS = Metric("clusterucb_service_warm_workers", "gauge", "Workers that are kept, lent to runs or idle.", ("state",))
WISHES = Metric("clusterucb_service_waiting_wishes", "gauge", "Workers that runs wait for.")
ASKED = Metric("clusterucb_service_requests", "counter", "Selections that were asked for and taken.")
REFUSED = Metric("clusterucb_service_refused", "counter", "Selections that were refused because the queue was full.")
ENDED = Metric("clusterucb_service_runs_ended", "counter", "Ends of runs.", ("kind",))

METRICS = (QUEUED, RUNNING, WORKERS, WISHES, ASKED, REFUSED, ENDED)


class ServiceMetrics:
    """Keeps them."""

    def __init__(self) -> None:
        self._gauges = {m: Gauge(m.name, m.text, m.tags) for m in METRICS if m.kind == "gauge"}
        self._counters = {m: Counter(m.name, m.text, m.tags) for m in METRICS if m.kind == "counter"}

    def line(self, queued: int, running: int) -> None:
        """Set how many runs wait and run."""
        self._gauges[QUEUED].set(queued)
        self._gauges[RUNNING].set(running)

    def workers(self, lent: int, idle: int, waiting: int) -> None:
        """Set how many workers there are."""
        self._gauges[WORKERS].set(lent, {"state": "lent"})
        self._gauges[WORKERS].set(idle, {"state": "idle"})
        self._gauges[WISHES].set(waiting)

    def asked(self) -> None:
        """Count a selection that was taken."""
        self._counters[ASKED].inc()

    def refused(self) -> None:
        """Count one that was not."""
        self._counters[REFUSED].inc()

    def ended(self, kind: str) -> None:
        """Count the end of a run."""
        self._counters[ENDED].inc(1, {"kind": kind})
