"""Every example run is a valid configuration and says how to use it."""

from pathlib import Path

import pytest

from clusterucb.settings import load_config

RUNS = sorted((Path(__file__).parents[2] / "cluster_configs" / "runs").glob("*.yaml"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_an_example_run_is_valid_and_explained(path: Path):
    load_config(path)
    assert path.read_text().startswith("# ")


def test_there_are_examples():
    assert {path.stem for path in RUNS} >= {
        "demo",
        "loop_demo",
        "laptop",
        "hub_gpu",
        "llama8b_8xh100",
        "multi_node",
        "large_model_sharded",
        "paper",
    }
