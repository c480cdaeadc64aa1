"""What a run reports is what its node exports and logs: read back from the port that Prometheus scrapes."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from actors.metrics import METRICS
from clusterucb.run.events import (
    Event,
    Failed,
    Finished,
    Progressed,
    RoundPlanned,
    StageStarted,
    Started,
    Suspected,
    Waiting,
    WorkerLost,
    WorkerReady,
    WorkerRetired,
)

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
EVENTS: tuple[Event, ...] = (
    Started(run="nightly", resumed=False, workers=2),
    WorkerReady(worker=0, device="cpu"),
    StageStarted(stage="search", total=200, done=50),
    RoundPlanned(round=0, draws=40, arms=4, remaining=160),
    RoundPlanned(round=1, draws=20, arms=4, remaining=140),
    Progressed(stage="search", samples=10, tokens=1000, seconds=0.5, best=0.25),
    Progressed(
        stage="search", samples=20, tokens=3000, seconds=1.75, failed=2, reasons=("non_finite", "too_long"), best=0.125
    ),
    Progressed(stage="audit", samples=5, tokens=500, seconds=0.0),
    WorkerLost(worker=1, reason="its node is gone", kind="node"),
    WorkerLost(worker=0, reason="no heartbeat", kind="hung"),
    WorkerRetired(worker=1, deaths=5),
    Suspected(stage="search", job=3, samples=8),
    Waiting(text="no worker is left"),
    Failed(error="the disk is full"),
    Finished(selected=1, scored=30),
)


@dataclass(frozen=True)
class Exported:
    """Values by series, stage and kind; the run's name is checked on all of them."""

    values: dict[tuple[str, str, str], float]
    log: tuple[dict[str, object], ...]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    events = tmp_path_factory.mktemp("metrics") / "events.jsonl"
    events.write_text("".join(event.model_dump_json(exclude_none=True) + "\n" for event in EVENTS))
    ran = subprocess.run(
        [sys.executable, "tests/report_through_ray.py", str(events), "ray_clusterucb_runs_ended_total"],
        cwd=ROOT,
        env=os.environ | {"RAY_LOGGING_CONFIG_ENCODING": "JSON", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    found = json.loads(ran.stdout.splitlines()[-1])
    values = {}
    for family in text_string_to_metric_families(found["page"]):
        for sample in family.samples:
            if sample.name.startswith("ray_clusterucb_"):
                assert sample.labels["run"] == "nightly", sample
                key = (sample.name, sample.labels.get("stage", ""), sample.labels.get("kind", ""))
                values[key] = values.get(key, 0.0) + (0.0 if sample.name.endswith("_bucket") else sample.value)
    return Exported(values, tuple(json.loads(line) for line in found["log"].splitlines() if line.startswith("{")))


def test_every_metric_is_exported_under_the_names_it_gives(exported: Exported):
    assert {name for name, _, _ in exported.values} == {series for metric in METRICS for series in metric.series}


@pytest.mark.parametrize(
    ("series", "stage", "kind", "value"),
    [
        ("samples_total", "search", "", 30),
        ("samples_total", "audit", "", 5),
        ("tokens_total", "search", "", 4000),
        ("busy_seconds_total", "search", "", 2.25),
        ("batch_seconds_count", "search", "", 2),
        ("excluded_samples_total", "search", "non_finite", 1),
        ("excluded_samples_total", "search", "too_long", 1),
        ("stage_done_share", "search", "", 0.4),
        ("budget_spent_share", "", "", 0.3),
        ("budget_remaining_share", "", "", 0.7),
        ("rounds", "", "", 2),
        ("draws", "", "", 60),
        ("best_influence", "", "", 0.25),
        ("in_flight_batches", "", "", 3),
        ("workers", "", "", 2),
        ("busy_workers", "", "", 1),
        ("workers_lost_total", "", "node", 1),
        ("workers_lost_total", "", "hung", 1),
        ("workers_retired_total", "", "", 1),
        ("suspected_batches_total", "search", "", 1),
        ("waiting", "", "", 0),
        ("runs_ended_total", "", "failed", 1),
        ("runs_ended_total", "", "finished", 1),
    ],
)
def test_what_was_reported_is_read_back(exported: Exported, series: str, stage: str, kind: str, value: float):
    assert exported.values[f"ray_clusterucb_{series}", stage, kind] == pytest.approx(value)


def test_every_event_but_progress_is_a_line_of_json_that_names_run_node_and_actor(exported: Exported):
    told = [line for line in exported.log if "event" in line]
    assert [line["event"] for line in told] == [event.event for event in EVENTS if event.event != "progressed"]
    assert all(line["run"] == "nightly" and line["node_id"] and line["actor_name"] == "reporter" for line in told)
    lost = next(line for line in told if line["event"] == "worker_lost")
    assert (lost["levelname"], lost["worker"], lost["kind"]) == ("WARNING", 1, "node")
