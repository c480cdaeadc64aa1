"""Cluster launcher files pass Ray's own schema and checks, and open nothing that the documentation says is closed."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FILES = sorted((Path(__file__).parents[2] / "cluster_configs" / "ray_up").glob("*.yaml"))
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def launcher(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load(request.param.read_text())


def test_there_is_one_for_each_place():
    assert {path.stem for path in FILES} == {"aws", "gcp", "onprem"}


def test_a_launcher_file_is_one_that_ray_up_takes(launcher: dict[str, Any]):
    jsonschema.validate(launcher, SCHEMA)
    validate_config(prepare_config(launcher))


def test_the_dashboard_stays_on_loopback_and_every_node_has_the_token(launcher: dict[str, Any]):
    start = " ".join(launcher["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "~/ray_bootstrap_config.yaml" in start
    assert "~/.ray/auth_token" in launcher["file_mounts"]


def test_workers_stay_off_the_head(launcher: dict[str, Any]):
    assert "--num-cpus=0" in " ".join(launcher["head_start_ray_commands"])
    assert "--num-cpus" not in " ".join(launcher["worker_start_ray_commands"])
