"""Every mistake in a configuration names the key as written and the way out."""

import copy
from pathlib import Path

import pytest

from clusterucb.errors import ConfigError
from clusterucb.settings import build_config, load_config

LEAST = {"pool": {"path": "pool.jsonl"}, "target": {"path": "target.jsonl"}, "model": {"base": "some/model"}}


def build(*overrides: str):
    return build_config(copy.deepcopy(LEAST), overrides)


def test_overrides_reach_every_depth_and_keep_yaml_types():
    config = build("search.allocator.beta=2", "search.rounds.lag=1", "tokens.max_length=64", "model.adapter=null")
    assert config.search.allocator.kind == "ucb_beta"
    assert config.search.allocator.beta == 2.0
    assert config.search.rounds.lag == 1
    assert config.model.adapter is None


def test_a_section_that_a_resolved_configuration_leaves_out_can_be_set():
    resolved = build().model_dump(mode="json")
    assert resolved["evaluation"]["held_out"] is None
    found = build_config(resolved, ["evaluation.held_out.path=held-out.jsonl"])
    assert found.evaluation.held_out is not None
    assert found.evaluation.held_out.path == "held-out.jsonl"


def test_changing_a_kind_drops_the_settings_of_the_old_one():
    tree = copy.deepcopy(LEAST) | {"search": {"allocator": {"kind": "ucb_beta", "beta": 3}}}
    assert build_config(tree, ["search.allocator.kind=uniform"]).search.allocator.kind == "uniform"


def test_the_default_kind_is_meant_where_only_its_settings_are_given():
    assert build("gradients.sketch.dim=4096").gradients.sketch.kind == "hash"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("search.alocator.kind=ucb1", "search.alocator is not a setting: did you mean 'allocator'?"),
        ("search.allocator.betta=2", "search.allocator.betta is not a setting: did you mean 'beta'?"),
        ("search.allocator.kind=ucb3", "search.allocator.kind is 'ucb3': did you mean 'ucb1'?"),
        ("pool.pth=x", "pool.pth is not a setting: did you mean 'path'?"),
        ("serach.budget=0.1", "serach is not a setting: did you mean 'search'?"),
        ("search.budget=2", "search.budget is 2"),
        ("search.budget=many", "search.budget is 'many'"),
        ("selection.share=0.5", "selection.share (0.5) exceeds search.budget (0.2)"),
        ("clusters.k=0", "clusters.k is 0"),
        ("seed=-1", "seed is -1"),
        ("no equals sign", "not of the form"),
        ("pool.path=[1", "not a YAML value"),
        ("seed.deep=1", "is not a section"),
    ],
)
def test_a_mistake_is_named(override: str, says: str):
    with pytest.raises(ConfigError) as caught:
        build_config(copy.deepcopy(LEAST) | {"seed": 0}, [override])
    message = str(caught.value)
    assert says in message or (override == "seed.deep=1" and "seed is 0" in message)
    assert "\n" not in message


def test_sketch_scoring_needs_a_sketch():
    with pytest.raises(ConfigError, match="use exact scoring or the hash sketch"):
        build("gradients.sketch.kind=none", "gradients.scoring=sketch")


@pytest.mark.parametrize("num_gpus", ["0.5", "2"])
def test_each_rank_of_a_gang_has_one_device(num_gpus: str):
    with pytest.raises(ConfigError, match="each rank of a gang works on one device"):
        build("workers.shards=2", f"workers.num_gpus={num_gpus}")
    assert build("workers.shards=2", "workers.num_gpus=1").workers.shards == 2


def test_a_missing_section_is_named():
    with pytest.raises(ConfigError, match="pool is missing"):
        build_config({})


@pytest.mark.parametrize(("text", "says"), [("a: [", "not readable YAML"), ("- a\n", "holds no mapping")])
def test_a_broken_file_is_named(tmp_path: Path, text: str, says: str):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        load_config(tmp_path / "nowhere.yaml")


def test_paths_that_exist_become_absolute_and_hub_ids_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pool.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    config = build()
    assert config.pool.path == str(tmp_path / "pool.jsonl")
    assert config.model.base == "some/model"
