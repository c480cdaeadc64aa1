"""A comparison on a pool made up here: groups that differ in direction and in reward."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clusterucb.compare.comparison import ALLOCATORS, PoolFeatures, Reference, Trial, check_plan, plan_of, trials
from clusterucb.compare.comparison_table import Comparison, averages, write_csv
from clusterucb.config import RunConfig
from clusterucb.errors import ConfigError

POOL, GROUPS = 400, 8


def settings(**more: object) -> RunConfig:
    bare = {"pool": {"path": "pool"}, "target": {"path": "target"}, "model": {"base": "model"}}
    return RunConfig.model_validate(bare | {"clusters": {"k": GROUPS}} | more)


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = np.random.default_rng(0)
    rewards_N = (np.arange(POOL) % GROUPS) / GROUPS + 0.1 * rng.normal(size=POOL)
    return Reference(rewards_N, np.ones(POOL, bool), rng.integers(10, 100, size=POOL), target_tokens=500.0)


@pytest.fixture(scope="module")
def features() -> PoolFeatures:
    rng = np.random.default_rng(1)
    matrix_NF = np.eye(GROUPS, 16)[np.arange(POOL) % GROUPS] + 0.05 * rng.normal(size=(POOL, 16))
    return PoolFeatures("groups", matrix_NF.astype(np.float16), np.ones(POOL, bool), cost=1000.0)


def compared(
    reference: Reference, features: PoolFeatures, allocators: tuple[str, ...], seeds: int = 2, **more: object
) -> list[Trial]:
    config = settings(**more)
    return list(trials(reference, [features], plan_of(allocators, (0.1, 0.3), seeds, config), config))


def test_exhaustive_scoring_is_one_in_everything(reference: Reference, features: PoolFeatures):
    trial = compared(reference, features, ("uniform",))[0]
    assert (trial.allocator, trial.features) == ("exhaustive", "none")
    assert (trial.recall, trial.influence, trial.gradients, trial.cost) == pytest.approx((1.0, 1.0, 1.0, 1.0))


def test_uniform_draws_recall_their_budget(reference: Reference, features: PoolFeatures):
    found = compared(reference, features, ("uniform",), seeds=40)[1:]
    for budget in (0.1, 0.3):
        recalls = [trial.recall for trial in found if trial.budget == budget]
        assert len(recalls) == 40
        assert np.mean(recalls) == pytest.approx(budget, abs=4 * np.std(recalls) / math.sqrt(40))
        assert all(trial.gradients == pytest.approx(trial.budget) for trial in found)


def test_clusters_that_tell_rewards_apart_beat_uniform_draws(reference: Reference, features: PoolFeatures):
    kinds = tuple(name for name in ALLOCATORS if name not in ("exhaustive", "uniform", "ucb1"))
    found = {
        (line.allocator, line.budget): line for line in averages(compared(reference, features, ("uniform", *kinds)))
    }
    for kind in kinds:
        assert found[kind, 0.3].recall.mean > 0.8 > 2 * found["uniform", 0.3].recall.mean
        assert found[kind, 0.3].spearman.mean > 0.8
    assert found["uniform", 0.3].spearman is None


def test_features_that_know_nothing_are_no_better_than_uniform_draws(reference: Reference, features: PoolFeatures):
    blind = replace(features, matrix_NF=np.random.default_rng(3).normal(size=(POOL, 16)))
    found = compared(reference, blind, ("ucb_beta",), seeds=12)[1:]
    assert np.mean([trial.recall for trial in found if trial.budget == 0.3]) == pytest.approx(0.3, abs=0.1)


def test_features_target_and_draws_are_paid(reference: Reference, features: PoolFeatures):
    dear = replace(features, cost=features.cost + 5000.0)
    cheap_trials, dear_trials = (compared(reference, kind, ("ucb_beta", "uniform")) for kind in (features, dear))
    for before, after in zip(cheap_trials, dear_trials, strict=True):
        extra = 0.0 if before.features == "none" else 5000.0 / reference.cost
        assert after.cost - before.cost == pytest.approx(extra)
        assert before.cost > reference.target_tokens / reference.cost
    assert reference.cost == 2 * reference.tokens_N.sum() + 500


def test_failed_and_unusable_samples_are_never_found_nor_missed(reference: Reference, features: PoolFeatures):
    rewards_N, usable_N = reference.rewards_N.copy(), np.ones(POOL, bool)
    rewards_N[:40], usable_N[40:60] = np.nan, False
    rewards_N[40:60] = np.nan
    spoilt = replace(reference, rewards_N=rewards_N, usable_N=usable_N)
    exhaustive, *rest = compared(spoilt, features, ("ucb_beta", "uniform"))
    assert (exhaustive.recall, exhaustive.gradients, exhaustive.cost) == pytest.approx((1.0, 1.0, 1.0), abs=0.02)
    assert all(trial.gradients >= trial.budget - 1 / POOL for trial in rest), "failures buy replacements, and are paid"


def test_the_same_comparison_twice_leaves_the_same_bytes(reference: Reference, features: PoolFeatures, tmp_path: Path):
    for name in ("first", "second"):
        write_csv(tmp_path / name, compared(reference, features, ("ucb_beta", "thresh_hard", "uniform")))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_row_a_trial(reference: Reference, features: PoolFeatures, tmp_path: Path):
    config = settings()
    plan = plan_of(("ucb_beta", "ucb1", "uniform"), (0.3, 0.1), 3, config)
    found = list(trials(reference, [features, replace(features, name="again")], plan, config))
    assert len(found) == plan.size(2) == 1 + 2 * 3 * (1 + 2 * 2)
    write_csv(tmp_path / "compare.csv", found)
    with (tmp_path / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "features", "allocator", "budget", "seed", "target", "clusters", "rounds",
        "gradients", "recall", "influence", "spearman", "cost", "features_cost",
    ]  # fmt: skip
    assert len({(row["features"], row["allocator"], row["budget"], row["seed"]) for row in rows}) == len(rows)
    assert rows[0]["spearman"] == ""
    lines = averages(found)
    assert len(lines) == 1 + 2 * (1 + 2 * 2)
    recalls = [
        trial.recall for trial in found if (trial.features, trial.allocator, trial.budget) == ("again", "ucb1", 0.1)
    ]
    line = next(line for line in lines if (line.features, line.allocator, line.budget) == ("again", "ucb1", 0.1))
    assert (line.recall.mean, line.recall.std) == pytest.approx((np.mean(recalls), np.std(recalls, ddof=1)))


def test_the_configured_allocator_keeps_its_settings():
    config = settings(search={"allocator": {"kind": "ucb_beta", "beta": 3.0}}, seed=7)
    plan = plan_of(("ucb_beta", "ucb1", "exhaustive"), (0.2,), 2, config)
    assert [allocator.model_dump() for allocator in plan.allocators] == [
        {"kind": "ucb_beta", "beta": 3.0}, {"kind": "ucb1", "scale": 1.0},
    ]  # fmt: skip
    assert plan.seeds == (7, 8)


@pytest.mark.parametrize(
    ("allocators", "budgets", "seeds", "message"),
    [
        (("ucb_gamma",), (0.2,), 2, r"no allocator 'ucb_gamma': choose from ucb_beta"),
        (("uniform",), (0.2, 1.5), 2, r"budget 1\.5 is not a share"),
        (("uniform",), (), 2, r"0 budgets"),
        (("uniform",), (0.2,), 0, r"0 seeds"),
        (("uniform",), (0.2, 0.04), 1, r"selection of 20 samples exceeds what a budget of 0\.04 buys of 400"),
        (("ucb1",), (0.05,), 1, r"cold start of 20 clusters draws at least 40"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    allocators: tuple[str, ...], budgets: tuple[float, ...], seeds: int, message: str
):
    config = settings(clusters={"k": 20})
    with pytest.raises(ConfigError, match=message):
        check_plan(plan_of(allocators, budgets, seeds, config), config, POOL)


def test_several_targets_share_one_search_and_are_judged_apart(reference: Reference, features: PoolFeatures):
    other_N = 100.0 * np.random.default_rng(5).permutation(reference.rewards_N)
    rewards_NM = np.stack([reference.rewards_N, other_N], axis=1)
    both = replace(reference, rewards_N=rewards_NM, targets=("a", "b"), weights=(1.0, 1.0))
    found = compared(both, features, ("ucb_beta",), seeds=3)
    for one, two, mean in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert (one.target, two.target, mean.target) == ("a", "b", "mean")
        assert one.cost == two.cost == mean.cost
        assert mean.recall == pytest.approx((one.recall + two.recall) / 2)
    lines = {(line.target, line.budget): line for line in averages(found) if line.allocator == "ucb_beta"}
    assert lines["a", 0.3].recall.mean > lines["b", 0.3].recall.mean, "clusters say nothing of the shuffled one"


def test_the_front_is_what_nothing_beats(reference: Reference, features: PoolFeatures):
    lines = averages(compared(reference, features, ("ucb_beta", "predictive", "uniform")))
    front = Comparison(pool=POOL, selected=20, seeds=(0, 1), lines=lines).front("")
    assert front[-1].recall.mean == max(line.recall.mean for line in lines)
    assert [line.recall.mean for line in front] == sorted({line.recall.mean for line in front})
    for line in lines:
        better = [each for each in front if each.recall.mean >= line.recall.mean and each.cost.mean <= line.cost.mean]
        assert better, "everything is on the front or behind it"
