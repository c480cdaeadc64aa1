"""A period's configuration is one that a selection takes, whatever the loop asks for."""

from pathlib import Path

import pytest

from clusterucb.loop.periods import LoopFolders, period_config
from clusterucb.settings import build_config


@pytest.mark.parametrize(("kind", "warm"), [("none", True), ("length_quantile", True), ("length_trend", False)])
def test_later_periods_begin_warm_unless_the_search_sees_corrected_rewards(kind: str, warm: bool) -> None:
    asked = {"pool": {"path": "p"}, "target": {"path": "t"}, "model": {"base": "m"}}
    config = build_config(asked | {"selection": {"normalise": {"kind": kind}}})
    found = period_config(config, 2, Path("checkpoint"), LoopFolders(Path("loop")))
    assert (found.search.warm_start is not None) == warm
    assert found.selection == config.selection
