"""Runs in a process of its own: an actor reports events as a coordinator does; prints what its node exports and logs.

python tests/report_through_ray.py EVENTS.jsonl WANTED_SERIES
"""

import json
import sys
import time
import urllib.request
from pathlib import Path

import ray

from actors.logs import log_event, name_run
from actors.metrics import RunMetrics
from clusterucb.run.events import parse_event


class Reporter:
    """What a coordinator does with its events."""

    def __init__(self, run: str) -> None:
        name_run(run)
        self._metrics = RunMetrics(run)

    @ray.method
    def report(self, lines: list[str]) -> None:
        for line in lines:
            event = parse_event(line)
            self._metrics(event)
            log_event(event)
        self._metrics.in_flight(jobs=3, workers=2, busy=1)


def main(events: Path, wanted: str) -> None:
    """Report through a Ray of our own, wait until the series `wanted` is exported, print what there is as JSON."""
    context = ray.init(
        "local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=1, object_store_memory=2**27,
        log_to_driver=False, _system_config={"metrics_report_interval_ms": 200},
    )  # fmt: skip
    reporter = ray.remote(Reporter).options(num_cpus=1, name="reporter").remote("nightly")
    ray.get(reporter.report.remote(events.read_text().splitlines()))
    port = ray.nodes()[0]["MetricsExportPort"]
    page, deadline = "", time.monotonic() + 60
    while wanted not in page and time.monotonic() < deadline:
        time.sleep(0.2)
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    logs = Path(context.address_info["session_dir"], "logs").glob("worker-*.err")
    print(json.dumps({"page": page, "log": "".join(path.read_text() for path in logs)}))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
