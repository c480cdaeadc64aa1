"""The preview through Ray: a worker is timed, nothing stays behind, and JSON comes out as it went in."""

import io
import tempfile
from pathlib import Path

import pytest
import ray
from pydantic import TypeAdapter
from rich.console import Console
from selection_cases import config_of, small_selection
from small_ray import small_ray

from clusterucb.errors import ConfigError
from clusterucb.plan.estimate import Estimate
from ray_app.cluster import LOCAL
from ray_app.plan import plan
from ray_app.plan_report import print_estimate
from ray_app.views import LineView


def shown(estimate: Estimate) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_estimate(estimate, console)
    return console.file.getvalue()


@pytest.mark.ray
def test_one_worker_is_timed_for_as_many_as_the_run_will_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = config_of(small_selection(tmp_path), "workers.count=3", "workers.num_cpus=0.25")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    with small_ray(2):
        estimate = plan(config, LOCAL, LineView(None))
        assert not [actor for actor in ray.util.list_named_actors(all_namespaces=True)]
    assert estimate.workers == 3
    assert estimate.measured is not None
    assert estimate.measured.device == "cpu"
    assert estimate.wall_seconds is not None
    assert not list((tmp_path / "scratch").glob("clusterucb-plan-*"))
    adapter = TypeAdapter(Estimate)
    assert adapter.validate_json(adapter.dump_json(estimate)) == estimate
    assert "with 3 workers" in shown(estimate)


def test_without_calibration_counts_come_alone_and_no_cluster_is_needed(tmp_path: Path):
    config = config_of(small_selection(tmp_path))
    estimate = plan(config, "nowhere:1", LineView(None), calibrated=False)
    assert (estimate.workers, estimate.wall_seconds, estimate.measured) == (None, None, None)
    assert estimate.budget == 64
    assert estimate.disk.features == 160 * 32 * 2
    assert "nothing was calibrated" in shown(estimate)


def test_what_a_run_would_refuse_is_refused(tmp_path: Path):
    config = config_of(small_selection(tmp_path), "clusters.k=40")
    with pytest.raises(ConfigError, match="cold start"):
        plan(config, "nowhere:1", LineView(None), calibrated=False)
