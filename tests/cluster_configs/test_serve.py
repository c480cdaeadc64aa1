"""Serve's configurations are what Serve understands, name what exists, and cut off no watcher."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from clusterucb.settings import load_service_config
from serve.deployment import Api, Arguments

FOLDER = Path(__file__).parents[2] / "cluster_configs"
EMBEDDED = yaml.safe_load((FOLDER / "kuberay" / "rayservice.yaml").read_text())["spec"]["serveConfigV2"]
CONFIGS = {
    "serve.yaml": yaml.safe_load((FOLDER / "serve.yaml").read_text()),
    "rayservice.yaml": yaml.safe_load(EMBEDDED),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_serve_takes_it_and_it_names_what_exists(name: str):
    tree: dict[str, Any] = CONFIGS[name]
    parsed = ServeDeploySchema.model_validate(tree)
    assert "request_timeout_s" not in tree["http_options"], "it would cut off watchers"
    (application,) = tree["applications"]
    module, _, function = application["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    Arguments.model_validate(application["args"])
    (deployment,) = application["deployments"]
    assert deployment["name"] == Api.name
    assert set(deployment) <= set(type(parsed.applications[0].deployments[0]).model_fields)


def test_what_listens_for_others_is_told_so_and_the_rest_is_loopbacks():
    assert CONFIGS["serve.yaml"]["http_options"]["host"] == "127.0.0.1"
    assert CONFIGS["rayservice.yaml"]["http_options"]["host"] == "0.0.0.0"
    assert CONFIGS["rayservice.yaml"]["applications"][0]["args"]["set"] == ["host=0.0.0.0"], (
        "so that tokens are asked for"
    )


@pytest.mark.parametrize("path", sorted((FOLDER / "services").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_service_is_valid(path: Path):
    assert load_service_config(path).catalogue.pools
