"""The preview and the run cannot disagree: every count of a plan is what the run's own ledger reports."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from selection_cases import config_of, run_here, small_selection

from clusterucb.checkpoint.model import describe
from clusterucb.config import Rounds, RunConfig, Search
from clusterucb.plan.calibration import Speed, Timing, calibrate
from clusterucb.plan.estimate import Estimate, Measured, estimate
from clusterucb.plan.planned_work import plan_work
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.worker import Worker
from clusterucb.search import Search as LiveSearch
from clusterucb.search.allocators import limit_of
from clusterucb.search.rounds import cold_start_K, round_sizes
from clusterucb.types import Observations


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return small_selection(tmp_path_factory.mktemp("material"))


def planned(config: RunConfig, folder: RunFolder, width: int | None = None) -> Estimate:
    """Return the counts alone."""
    prepared = prepare(config, folder, lambda what, rows: None)
    work = plan_work(config, prepared.pool, prepared.target)
    shape = describe(config.model, config.gradients)
    return estimate(config, shape, work, prepared.pool, prepared.target, width, None, None, None, ())


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["search.rounds.lag=1", "search.rounds.growth=1.5"],
        ["search.allocator.kind=uniform"],
        ["search.allocator.kind=exhaustive"],
        ["features.kind=gradient"],
        [
            "search.allocator.kind=predictive",
            "features={kind: several, parts: [{kind: hidden}, {kind: hidden, layer: 1}]}",
        ],
        ["search.allocator.kind=predictive", "features={kind: hidden, match: false}"],
        ["search.compat=official", "audit.samples=0"],
        ["tokens.max_length=40", "tokens.truncation=exclude"],
    ],
    ids=lambda overrides: " ".join(overrides) or "defaults",
)
def test_the_counts_are_those_of_the_run(settings: dict[str, object], tmp_path: Path, overrides: list[str]):
    config = config_of(settings, *overrides)
    preview = planned(config, RunFolder(tmp_path / "plan"))
    folder = run_here(config, tmp_path / "run")
    summary = json.loads(folder.summary_file.read_text())
    assert not set(summary["excluded"]) - {"too_long"}, "a failed sample would be replaced"
    assert dict(preview.pool.excluded) == summary["excluded"]
    assert (preview.pool.samples, preview.pool.usable) == (summary["pool"], summary["usable"])
    assert (preview.budget, preview.selected) == (summary["scored"], summary["selected"])
    assert [stage.stage for stage in preview.stages] == [cost["stage"] for cost in summary["cost"]["stages"]]
    spent = [*summary["cost"]["stages"], summary["cost"]["exhaustive"]]
    for stage, cost in zip((*preview.stages, preview.exhaustive), spent, strict=True):
        for count in ("samples", "forward_passes", "backward_passes", *(["tokens"] if stage.tokens_exact else [])):
            assert getattr(stage, count) == cost[count], f"{stage.stage} {count}"
    inexact = [stage.stage for stage in preview.stages if not stage.tokens_exact]
    assert set(inexact) <= ({"search", "audit"} if preview.clusters is not None else set())
    assert preview.share_of_exhaustive_gradients == summary["cost"]["share_of_exhaustive_gradients"]
    if preview.clusters is not None and summary["by_cluster"]:
        assert preview.clusters == len(summary["by_cluster"])
    state = folder.state
    dim = config.gradients.sketch.dim
    assert preview.disk.sketches == (state / "sketches.f16").stat().st_size
    assert preview.disk.target_bank == pytest.approx((state / "target.safetensors").stat().st_size, rel=0.2)
    stores = [path for name in ("pool", "target") for path in (state / name).iterdir()]
    assert preview.disk.tokens == sum(path.stat().st_size for path in stores)
    assert dim == 512


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    first=st.integers(1, 20),
    growth=st.floats(1.0, 3.0),
    lag=st.sampled_from([0, 1]),
    budget=st.floats(0.3, 1.0),
    official=st.booleans(),
)
def test_the_rounds_are_those_of_the_search(sizes, first, growth, lag, budget, official):
    rounds = Rounds(first=first, growth=growth, lag=lag)
    config = Search(budget=budget, rounds=rounds, cold_start_min=1, compat="official" if official else None)
    labels_N = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    cold, limit = int(cold_start_K(np.array(sizes), config).sum()), limit_of(config, len(labels_N))
    if cold > limit:
        return
    search = LiveSearch(labels_N, config, 0.05, np.random.default_rng(0))
    seen: list[int] = []
    while (drawn := search.ask()) is not None:
        seen.append(len(drawn.samples_B))
        rewards = np.random.default_rng(drawn.index).normal(size=len(drawn.samples_B))
        search.tell(drawn.index, Observations(drawn.samples_B, rewards))
    assert round_sizes(limit, cold, rounds) == tuple(seen)


@given(
    law=st.tuples(st.floats(0, 1), st.floats(1e-5, 1e-2), st.floats(0, 1e-5)),
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(4, 500)), min_size=3, max_size=5, unique=True),
)
def test_a_fitted_law_gives_back_what_it_was_fitted_to(law, shapes):
    per_batch, per_token, per_pair = law

    def seconds(samples: int, longest: int) -> float:
        return per_batch + per_token * samples * longest + per_pair * samples * longest**2

    speed = Speed.of([Timing("gradients", n, longest, seconds(n, longest)) for n, longest in shapes])
    assert min(speed.batch, speed.token, speed.pair) >= 0
    lengths_N = np.array([longest for _, longest in shapes])
    batches = [np.full(n, i) for i, (n, _) in enumerate(shapes)]
    expected = [seconds(n, longest) for n, longest in shapes]
    np.testing.assert_allclose(speed.seconds(batches, lengths_N), expected, rtol=1e-3)


def test_a_calibrated_plan_has_times_that_add_up(settings: dict[str, object], tmp_path: Path):
    config = config_of(settings)
    prepared = prepare(config, RunFolder(tmp_path / "plan"), lambda what, rows: None)
    work = plan_work(config, prepared.pool, prepared.target)
    worker = Worker(config, torch.device("cpu"))

    def ask(task, bank):
        return worker.work(task, lambda: bank)

    calibration = calibrate(config, work, prepared.pool, prepared.target, ask)
    assert {timing.kind for timing in calibration.timings} == {"target", "features", "gradients"}
    assert calibration.widths == {"features": 32}
    shape, measured = describe(config.model, config.gradients), Measured("cpu", 1.0, 0.1, calibration.timings)

    def with_workers(count: int) -> Estimate:
        parts = (prepared.pool, prepared.target)
        return estimate(config, shape, work, *parts, 32, calibration, measured, count, ())

    one, many = with_workers(1), with_workers(1000)
    for stage, spread in zip(one.stages, many.stages, strict=True):
        assert stage.wall_seconds == pytest.approx(stage.worker_seconds)
        assert 0 < spread.wall_seconds <= stage.wall_seconds
    assert one.wall_seconds == pytest.approx(1.0 + sum(stage.wall_seconds for stage in one.stages))
    assert one.disk.features == 160 * 32 * 2
    assert not one.memory.on_device
