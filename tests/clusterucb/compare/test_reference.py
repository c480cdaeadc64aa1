"""The runs that a comparison starts depend on nothing that a comparison varies."""

import pytest

from clusterucb.compare.reference import check_kinds, default_kinds, feature_config, parts_of, reference_config
from clusterucb.config import RunConfig
from clusterucb.errors import ConfigError


def settings(**more: object) -> RunConfig:
    return RunConfig.model_validate(
        {"pool": {"path": "pool"}, "target": {"path": "target"}, "model": {"base": "model"}} | more
    )


VARIED = settings(
    search={"allocator": {"kind": "ucb1"}, "budget": 0.5, "cold_start": 0.3},
    clusters={"k": 33},
    selection={"count": 7},
    audit={"samples": 50},
    features={"kind": "given", "field": "vector"},
)


def test_search_clusters_selection_and_features_leave_the_reference_alone():
    assert reference_config(VARIED) == reference_config(settings())
    assert reference_config(settings(seed=1)) != reference_config(settings())
    assert reference_config(VARIED).search.allocator.kind == "exhaustive"


def test_search_clusters_and_selection_leave_features_alone():
    assert feature_config(VARIED, "hidden") == feature_config(settings(), "hidden")
    assert feature_config(VARIED, "given").features == VARIED.features


def test_own_features_come_first_and_gradients_follow_where_there_are_sketches():
    assert default_kinds(settings()) == ("hidden", "gradient")
    assert default_kinds(settings(features={"kind": "gradient"})) == ("gradient",)
    assert default_kinds(settings(features={"kind": "gradient", "path": "runs/before"})) == ("earlier", "gradient")
    assert default_kinds(settings(gradients={"sketch": {"kind": "none"}})) == ("hidden",)


def test_parts_of_several_features_have_names_and_a_run_each():
    parts = [{"kind": "hidden"}, {"kind": "hidden", "layer": 3}, {"kind": "gradient", "path": "runs/before"}]
    several = settings(features={"kind": "several", "parts": parts})
    assert default_kinds(several) == ("hidden+hidden-2+earlier", "gradient")
    assert parts_of(("hidden", "hidden+earlier")) == ("hidden", "earlier")
    check_kinds(("earlier+hidden-2",), several)
    found = [feature_config(several, kind).features for kind in ("hidden", "hidden-2", "earlier")]
    assert tuple(found) == several.features.parts


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("embedding", "set features.kind and features.encoder"),
        ("earlier", "features.path to the run that holds them"),
        ("colour", "no features 'colour': choose from hidden"),
    ],
)
def test_features_that_nothing_describes_are_refused(kind: str, message: str):
    with pytest.raises(ConfigError, match=message):
        check_kinds(("hidden", kind), settings())
    with pytest.raises(ConfigError, match=r"gradients\.sketch is none"):
        check_kinds(("gradient",), settings(gradients={"sketch": {"kind": "none"}}))
