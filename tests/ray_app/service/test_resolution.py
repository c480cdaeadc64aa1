"""Requests become run configurations through the catalogue, and through nothing else."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from clusterucb.config import Selection, ServiceConfig
from clusterucb.settings import build_service_config
from ray_app.service.refusals import InvalidRequest
from ray_app.service.requests import SelectionRequest, TargetUpload
from ray_app.service.resolution import resolve_selection
from ray_app.service.shelf import Shelf

CHAT = [{"role": "user", "content": "one plus one"}, {"role": "assistant", "content": "two"}]


def a_service(tmp_path: Path, **more: object) -> ServiceConfig:
    (tmp_path / "pool.jsonl").write_text("{}")
    catalogue = {
        "pools": {"lessons": {"path": str(tmp_path / "pool.jsonl"), "description": "a pool"}},
        "checkpoints": {"tiny": {"model": {"base": "models/tiny"}, "tokens": {"max_length": 64, "loss_on": "all"}}},
        "targets": {"sums": {"path": "sums.jsonl"}},
        "features": {"small": {"kind": "proxy", "base": "models/proxy"}},
        "held_out": {"exam": {"path": "exam.jsonl"}},
    }
    return build_service_config({"catalogue": catalogue, "folder": str(tmp_path / "service"), **more})


def resolve(tmp_path: Path, body: dict[str, object], **more: object):
    service = a_service(tmp_path, **more)
    request = SelectionRequest.model_validate({"pool": "lessons", "checkpoint": "tiny", "target": "sums"} | body)
    return resolve_selection(request, "ann", service, Shelf(tmp_path / "service" / "targets", service.limits))


def test_names_become_what_the_catalogue_holds(tmp_path: Path) -> None:
    config = resolve(tmp_path, {"features": {"kind": "catalogue", "name": "small"}, "search": {"budget": 0.3}})
    assert (config.pool.path, config.target.path) == (str(tmp_path / "pool.jsonl"), "sums.jsonl")
    assert config.model.base == "models/tiny"
    assert config.features.kind == "proxy"
    assert config.features.base == "models/proxy"
    assert config.search.budget == 0.3


def test_a_request_overrides_the_settings_it_names_and_no_others(tmp_path: Path) -> None:
    tokens = resolve(tmp_path, {"tokens": {"max_length": 32}}).tokens
    assert (tokens.max_length, tokens.loss_on) == (32, "all")


@pytest.mark.parametrize("field", ["pool", "checkpoint", "target"])
def test_an_unknown_name_is_named_with_those_that_are_known(tmp_path: Path, field: str) -> None:
    with pytest.raises(InvalidRequest, match=r"'elsewhere'.*(lessons|tiny|sums)") as refused:
        resolve(tmp_path, {field: "elsewhere"})
    assert refused.value.field == field


@pytest.mark.parametrize(
    "body",
    [
        {"pool": "../pool"},
        {"pool": "/etc/passwd"},
        {"checkpoint": "Qwen/Qwen2.5-0.5B"},
        {"target": {"path": "sums.jsonl"}},
        {"model": {"base": "x"}},
        {"features": {"kind": "embedding", "encoder": "x"}},
        {"features": {"kind": "proxy", "base": "x"}},
        {"features": {"kind": "gradient", "path": "x"}},
        {"gradients": {"modules": ["(a+)+$"]}},
        {"workers": {"count": 99}},
        {"clusters": {"path": "runs/another"}},
        {"search": {"warm_start": {"path": "runs/another"}}},
        {"gates": {"held_out": {"sets": [{"path": "test.jsonl"}]}}},
        {"gates": {"held_out": {"sets": ["../test.jsonl"]}}},
        {"target": None, "targets": [{"name": "sums", "path": "sums.jsonl"}]},
        {"target": None, "targets": [{"name": "../sums"}]},
        {"target": None, "targets": []},
        {"target": None, "targets": [{"name": "sums"}, {"name": "sums"}]},
        {"target": None, "targets": [{"name": "sums", "subtask_field": "task"}]},
        {"targets": [{"name": "sums"}]},
    ],
)
def test_no_path_no_hub_id_and_no_pattern_passes(tmp_path: Path, body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        resolve(tmp_path, body)


def test_several_targets_come_by_name_and_along_with_the_request(tmp_path: Path) -> None:
    mine = {"name": "mine", "rows": [{"messages": CHAT, "task": "a"}], "subtask_field": "task"}
    config = resolve(tmp_path, {"target": None, "targets": [{"name": "sums", "weight": 2.0}, mine]})
    assert [(target.name, target.weight, target.subtask_field) for target in config.targets] == [
        ("sums", 2.0, None),
        ("mine", 1.0, "task"),
    ]
    assert config.targets[0].path == "sums.jsonl"
    assert Path(config.targets[1].path).exists()
    with pytest.raises(InvalidRequest, match=r"targets\.1\.name is 'elsewhere'") as refused:
        resolve(tmp_path, {"target": None, "targets": [{"name": "sums"}, {"name": "elsewhere"}]})
    assert refused.value.field == "targets.1.name"


def test_gates_name_held_out_sets_of_the_catalogue(tmp_path: Path) -> None:
    gates = {"near": {"policy": "exclude"}, "held_out": {"sets": ["exam"], "words": 8}}
    config = resolve(tmp_path, {"gates": gates})
    assert config.gates.near.policy == "exclude"
    assert (config.gates.held_out.sets[0].path, config.gates.held_out.words) == ("exam.jsonl", 8)
    with pytest.raises(InvalidRequest, match=r"'other'.*it has exam") as refused:
        resolve(tmp_path, {"gates": {"held_out": {"sets": ["other"]}}})
    assert refused.value.field == "gates.held_out.sets.0"


def test_a_selection_is_asked_for_as_in_a_file(tmp_path: Path) -> None:
    selection = {
        "count": 9,
        "caps": {"source": {"share": 0.3}, "near_duplicate": {"count": 1}},
        "normalise": {"kind": "length_trend"},
        "diversity": {"kind": "log_determinant", "quality": 0.3},
    }
    config = resolve(tmp_path, {"selection": selection, "search": {"budget": 0.4, "until": {"recall": 0.8}}})
    assert config.selection == Selection.model_validate(selection)
    assert config.search.until is not None
    assert config.search.until.recall == 0.8


def test_sections_that_the_service_keeps_closed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="clusters cannot be set"):
        resolve(tmp_path, {"clusters": {"k": 4}}, may_set=["search", "selection"])


def test_sections_that_contradict_each_other_are_refused_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        resolve(tmp_path, {"selection": {"share": 0.5}, "search": {"budget": 0.2}})
    assert refused.value.field == "selection.share"


def test_an_inline_target_is_written_once_under_its_digest(tmp_path: Path) -> None:
    body: dict[str, object] = {"target": {"rows": [{"messages": CHAT, "lesson": 3}]}}
    first, second = resolve(tmp_path, body), resolve(tmp_path, body)
    assert first == second
    assert Path(first.target.path).read_text().count("lesson") == 1


def test_rows_that_no_run_could_read_are_refused_without_a_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"target\.rows, line 2: id 'a' was already given") as refused:
        resolve(tmp_path, {"target": {"rows": [{"id": "a", "messages": CHAT}, {"id": "a", "messages": CHAT}]}})
    assert str(tmp_path) not in str(refused.value)


def test_uploaded_targets_are_their_owners(tmp_path: Path) -> None:
    service = a_service(tmp_path)
    shelf = Shelf(tmp_path / "service" / "targets", service.limits)
    upload = TargetUpload.model_validate({"name": "mine", "rows": [{"messages": CHAT}]})
    assert [shelf.keep("ann", upload)[1], shelf.keep("ann", upload)[1]] == [False, True]
    request = SelectionRequest.model_validate({"pool": "lessons", "checkpoint": "tiny", "target": "mine"})
    assert Path(resolve_selection(request, "ann", service, shelf).target.path).exists()
    with pytest.raises(InvalidRequest):
        resolve_selection(request, "bob", service, shelf)
