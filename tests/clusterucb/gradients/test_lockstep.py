"""Ranks that hold a model together answer as a worker that holds it alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from gang_of_two import GangOfTwo, blocks_kept, gang_of_two, listening, recover, run_short, watch_blocks
from gradient_cases import batch_of
from tiny_models import saved, tiny_gpt2, tiny_llama, tiny_neox

from clusterucb.config import RunConfig
from clusterucb.gradients.targets import combine
from clusterucb.run.tasks import FeatureTask, ScoreTask, TargetTask
from clusterucb.run.worker import Worker
from clusterucb.settings import build_config

MODELS = {
    "llama": (lambda: tiny_llama(layers=3, tied=True), {"model": {"lora": {"init_b": "gaussian"}}}),
    "gpt2": (
        tiny_gpt2,
        {
            "model": {"lora": {"init_b": "gaussian", "target_modules": ["c_attn", "c_proj"]}},
            "features": {"kind": "hidden", "layer": 1},
        },
    ),
    "neox": (
        tiny_neox,
        {
            "gradients": {"modules": [r".*\.1\..*\.(query_key_value|dense_4h_to_h)"]},
            "features": {"kind": "output_gradient", "dim": 256},
        },
    ),
}
"""Tied and untied embeddings, linear layers and Conv1D, gradients of an adapter and of the base's own layers."""
LENGTHS = ((9,), (5, 12, 7), (4, 4, 11, 30, 2))
"""Fewer rows than ranks, and odd counts."""


@dataclass(frozen=True, eq=False)
class Pair:
    name: str
    alone: Worker


@pytest.fixture(scope="module")
def gang() -> Iterator[GangOfTwo]:
    with gang_of_two() as gang:
        yield gang


def config_of(name: str, folder: Path) -> RunConfig:
    build, changes = MODELS[name]
    settings = {"pool": {"path": "pool.jsonl"}, "target": {"path": "target.jsonl"}, **changes}
    settings["model"] = {"base": str(saved(build(), folder / name)), **changes.get("model", {})}
    return build_config(settings, ["gradients.sketch.dim=512"])


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, gang: GangOfTwo, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config = config_of(request.param, tmp_path_factory.mktemp("models"))
    gang.load(request.param, config)
    return Pair(request.param, Worker(config, torch.device("cpu")))


def test_a_gang_answers_as_a_worker_alone(gang: GangOfTwo, pair: Pair) -> None:
    target = TargetTask(batch_of((6, 10, 8), seed=1), "sums")
    expected = pair.alone.work(target, lambda: None)
    bank = combine(["sums"], [expected])
    together = combine(["sums"], [gang.work(pair.name, target)])
    for name, mean in bank.means.items():
        torch.testing.assert_close(together.means[name], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.sketch_SD, bank.sketch_SD, rtol=1e-4, atol=1e-5)
    for lengths in LENGTHS:
        batch = batch_of(lengths, seed=len(lengths))
        task = ScoreTask(batch, bank.fingerprint)
        actual, wanted = gang.work(pair.name, task, together), pair.alone.work(task, lambda: bank)
        np.testing.assert_array_equal(actual.samples_B, batch.samples_B)
        np.testing.assert_allclose(actual.influence_BS, wanted.influence_BS, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(actual.squared_norm_B, wanted.squared_norm_B, rtol=1e-4)
        np.testing.assert_allclose(actual.loss_B, wanted.loss_B, rtol=1e-4)
        np.testing.assert_allclose(actual.sketch_BD, wanted.sketch_BD, atol=1e-3)  # sketches are halves
        actual, wanted = gang.work(pair.name, FeatureTask(batch)), pair.alone.work(FeatureTask(batch), lambda: None)
        np.testing.assert_array_equal(actual.samples_B, batch.samples_B)
        np.testing.assert_allclose(actual.features_BF, wanted.features_BF, atol=1e-3)


def test_a_rank_holds_its_share_between_passes(gang: GangOfTwo, pair: Pair) -> None:
    for held in gang.held(pair.name):
        assert held.held < 0.55 * held.whole


def test_no_pass_keeps_the_weights_it_gathered(gang: GangOfTwo, pair: Pair) -> None:
    gang.each(watch_blocks, (pair.name,))
    gang.work(pair.name, TargetTask(batch_of((6, 10, 8)), "sums"))
    for kept, seen in gang.each(blocks_kept, ()):
        assert seen
        assert kept == 0


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_rank_short_of_memory_halves_its_part(gang: GangOfTwo, pair: Pair, where: str) -> None:
    """One rank has room for one row at a time, and none for a long one; the other comes through."""
    task = TargetTask(batch_of((7, 6, 9, 12, 5, 8, 4, 40, 6), seed=3), "sums")
    expected = pair.alone.work(task, lambda: None)
    gang.each(run_short, (pair.name, 0, where), (pair.name, 1, where))
    actual = gang.work(pair.name, task)
    gang.each(recover, ())
    assert [(failure.sample, failure.reason) for failure in actual.failures] == [(107, "out_of_memory")]
    np.testing.assert_array_equal(actual.samples_B, np.delete(expected.samples_B, 7))
    np.testing.assert_allclose(actual.loss_B, np.delete(expected.loss_B, 7), rtol=1e-4)
    whole = gang.work(pair.name, task)
    for name, wanted in expected.sums.items():
        np.testing.assert_allclose(whole.sums[name], wanted, rtol=1e-4, atol=1e-5)


def test_ranks_on_one_machine_listen_on_loopback_alone(gang: GangOfTwo) -> None:
    for addresses in gang.each(listening, ()):
        assert addresses
        assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}
