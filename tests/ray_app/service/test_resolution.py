"""Requests become run configurations through the catalogue, and through nothing else."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from clusterucb.config import ServiceConfig
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
    ],
)
def test_no_path_no_hub_id_and_no_pattern_passes(tmp_path: Path, body: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        resolve(tmp_path, body)


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
