"""The chaos harness in short: a run that loses everything once ends with the bytes of one that lost nothing."""

import random
from collections import Counter
from pathlib import Path

import pytest
from chaos import Run, chaos_in, disturb, judge
from chaos_oracle import undisturbed

pytestmark = pytest.mark.ray


FAULTS = ["worker killed", "coordinator killed", "driver killed", "node killed", "disk full"]


@pytest.mark.timeout(600)
def test_a_disturbed_run_ends_with_the_same_bytes_and_without_the_poison(tmp_path: Path):
    quick = {"workers": {"count": 2, "attempts": 1}}
    with chaos_in(tmp_path / "cluster", poison=1, rows=240, changes=quick, wishes=True) as chaos:
        expected = undisturbed(chaos.config, chaos.poison, tmp_path / "undisturbed" / "run")
        run = Run(chaos, tmp_path / "disturbed" / "run")
        run.path.parent.mkdir()
        struck = disturb(run, FAULTS, random.Random(0))
        verdict = judge(run, expected)
    assert struck == Counter(FAULTS)
    assert verdict.same_bytes
    assert verdict.lost == 0
    assert verdict.computed_twice <= 2 * 2 * 16 * len(FAULTS), "more than what was in flight was computed again"
