"""Scores equal a dense reference; a failing sample is reported and disturbs no other; memory may run out."""

import numpy as np
import pytest
import torch
from gradient_cases import (
    CASES,
    CPU,
    adam_by_hand,
    batch_of,
    flat,
    frozen,
    llama_lora,
    random_moments,
    truth,
)
from tiny_models import tiny_llama

from clusterucb.config import Adam, Gradients, HashSketch, NoSketch, Plain, RademacherSketch
from clusterucb.errors import ConfigError, ModelError
from clusterucb.gradients.engine import GradientEngine
from clusterucb.gradients.padding import some
from clusterucb.gradients.targets import TargetBank, combine
from clusterucb.types import Scores, TokenBatch


def build(case: str = "llama_lora", **settings) -> tuple[torch.nn.Module, GradientEngine]:
    model, config = CASES[case]()
    shapes = GradientEngine(model, config, None, CPU).shapes
    moments = random_moments(shapes, scale=1e-2)
    return model, GradientEngine(model, config.model_copy(update=settings), moments, CPU)


def bank_of(engine: GradientEngine) -> TargetBank:
    return combine(
        ["a", "b"],
        [engine.target(batch_of([6, 11, 4], seed=5), "a"), engine.target(batch_of([8, 3], seed=6), "b")],
    )


def units(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precondition", [Adam(), Adam(eps_inside_root=False), Plain()])
def test_exact_scores_equal_a_dense_reference(case, precondition):
    model, engine = build(case, precondition=precondition)
    batch = batch_of([5, 12, 7, 3])
    scores = engine.score(batch, bank_of(engine))
    moments = random_moments(engine.shapes, scale=1e-2)
    names = list(engine.shapes)
    losses, gradients = truth(model, names, batch)
    if precondition.kind == "adam":
        gradients = {
            name: adam_by_hand(gradients[name], moments.exp_avg[name], moments.exp_avg_sq[name], precondition)
            for name in names
        }
    directions = flat(gradients)
    targets = [
        units(flat(truth(model, names, batch_of(*how[:1], seed=how[1]))[1])) for how in (([6, 11, 4], 5), ([8, 3], 6))
    ]
    expected = torch.stack([(units(directions) @ target.T).mean(1) for target in targets], dim=1)
    np.testing.assert_array_equal(scores.samples_B, batch.samples_B)
    np.testing.assert_allclose(scores.influence_BS, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores.squared_norm_B, directions.square().sum(1), rtol=1e-4)
    np.testing.assert_allclose(scores.loss_B, losses, rtol=1e-5)
    assert scores.failures == ()
    assert scores.seconds > 0


@pytest.mark.parametrize("sketch", [HashSketch(dim=512), RademacherSketch(dim=512)])
def test_sketches_are_unit_and_stand_for_the_directions(sketch):
    _, engine = build(sketch=sketch)
    batch = batch_of([5, 12, 7, 3, 20, 9])
    sketch_BD = torch.from_numpy(engine.score(batch, bank_of(engine)).sketch_BD).double()
    exact = units(flat(engine.gradients(batch).vectors))
    assert sketch_BD.shape == (6, 512)
    np.testing.assert_allclose(sketch_BD.norm(dim=1), 1.0, rtol=1e-3)
    pairs = torch.ones(6, 6).tril(-1).bool()
    error = (sketch_BD @ sketch_BD.T - exact @ exact.T)[pairs].square().mean().sqrt()
    assert error < 1.5 / 512**0.5


def test_sketch_scoring_compares_unit_sketches():
    _, exact = build(sketch=HashSketch(dim=2048))
    _, engine = build(sketch=HashSketch(dim=2048), scoring="sketch")
    batch, bank = batch_of([5, 12, 7, 3]), bank_of(exact)
    scores = engine.score(batch, bank)
    expected = scores.sketch_BD.astype(np.float32) @ bank.sketch_SD.numpy().T
    np.testing.assert_allclose(scores.influence_BS, expected, atol=1e-3)
    assert np.abs(scores.influence_BS - exact.score(batch, bank).influence_BS).max() < 4 / 2048**0.5


def test_no_sketch_keeps_none():
    _, engine = build(sketch=NoSketch())
    assert engine.score(batch_of([5, 6]), bank_of(engine)).sketch_BD is None


def same(actual: Scores, expected: Scores) -> None:
    np.testing.assert_array_equal(actual.samples_B, expected.samples_B)
    np.testing.assert_allclose(actual.influence_BS, expected.influence_BS, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(actual.squared_norm_B, expected.squared_norm_B, rtol=1e-4)
    np.testing.assert_allclose(actual.loss_B, expected.loss_B, rtol=1e-5)
    np.testing.assert_allclose(actual.sketch_BD.astype(np.float32), expected.sketch_BD.astype(np.float32), atol=2e-3)


POISON = 93
"""A token outside the random samples' vocabulary."""


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_sample_is_reported_and_its_mates_are_undisturbed(value):
    model, config = llama_lora()
    model.get_input_embeddings().weight[POISON] = value
    engine = GradientEngine(model, config, None, CPU)
    bank = bank_of(engine)
    batch = batch_of([5, 12, 7])
    tokens_T = batch.tokens_T.copy()
    tokens_T[5 + 4] = POISON
    poisoned = TokenBatch(batch.samples_B, tokens_T, batch.labels_T, batch.offsets)
    scores = engine.score(poisoned, bank)
    assert [(failure.sample, failure.reason) for failure in scores.failures] == [(101, "non_finite")]
    same(scores, engine.score(some(batch, np.array([0, 2])), bank))
    target = engine.target(poisoned, "a")
    assert [failure.sample for failure in target.failures] == [101]
    assert all(np.isfinite(total).all() for total in target.sums.values())


def test_a_zero_gradient_is_reported():
    model = frozen(tiny_llama())
    model.lm_head.weight.zero_()
    engine = GradientEngine(model, Gradients(modules=(r".*\.v_proj",)), None, CPU)
    part = engine.target(batch_of([5, 6]), "a")
    assert [(failure.sample, failure.reason) for failure in part.failures] == [
        (100, "zero_gradient"),
        (101, "zero_gradient"),
    ]
    assert part.count == 0


def test_a_sample_without_labels_is_reported_in_its_place():
    _, engine = build()
    bank = bank_of(engine)
    batch = batch_of([5, 6, 7])
    labels_T = batch.labels_T.copy()
    labels_T[5:11] = False
    scores = engine.score(TokenBatch(batch.samples_B, batch.tokens_T, labels_T, batch.offsets), bank)
    assert [(failure.sample, failure.reason) for failure in scores.failures] == [(101, "no_label_tokens")]
    same(scores, engine.score(some(batch, np.array([0, 2])), bank))
    nothing = engine.score(TokenBatch(batch.samples_B, batch.tokens_T, labels_T & False, batch.offsets), bank)
    assert nothing.influence_BS.shape == (0, 2)
    assert len(nothing.failures) == 3


class SmallMemory:
    """Raises what a device raises when a forward pass sees more padded tokens than fit; counts the attempts."""

    def __init__(self, model: torch.nn.Module, tokens: int) -> None:
        self.tokens, self.seen = tokens, []
        model.get_input_embeddings().register_forward_pre_hook(self._check)

    def _check(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.seen.append(inputs[0].numel())
        if inputs[0].numel() > self.tokens:
            raise torch.OutOfMemoryError("out of memory")


def test_memory_running_out_halves_the_batch_and_is_remembered():
    model, engine = build()
    bank = bank_of(engine)
    batch = batch_of([8] * 8)
    expected = engine.score(batch, bank)
    memory = SmallMemory(model, tokens=20)
    same(engine.score(batch, bank), expected)
    assert memory.seen == [64, 32, 16, 16, 16, 16]
    memory.seen.clear()
    same(engine.score(batch, bank), expected)
    assert memory.seen == [16, 16, 16, 16]
    assert engine.target(batch, "a").count == 8


def test_memory_running_out_inside_the_backward_pass_is_recovered_from():
    model, engine = build()
    bank = bank_of(engine)
    batch = batch_of([8] * 4)
    expected = engine.score(batch, bank)
    real = engine._sketcher.fold

    def fold(name, rows_BP, sketch_BD):
        if len(rows_BP) > 2:
            raise torch.OutOfMemoryError("out of memory")
        real(name, rows_BP, sketch_BD)

    engine._sketcher.fold = fold
    same(engine.score(batch, bank), expected)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_sample_too_large_even_alone_is_reported_and_the_others_go_on():
    model, engine = build()
    bank = bank_of(engine)
    batch = batch_of([8, 30, 9])
    expected = engine.score(some(batch, np.array([0, 2])), bank)
    SmallMemory(model, tokens=20)
    scores = engine.score(batch, bank)
    assert [(failure.sample, failure.reason) for failure in scores.failures] == [(101, "out_of_memory")]
    assert "30 tokens" in scores.failures[0].detail
    same(scores, expected)


def test_the_clock_is_the_callers():
    model, config = llama_lora()
    ticks = iter([1.0, 3.5, 10.0, 11.0])
    engine = GradientEngine(model, config, None, CPU, clock=lambda: next(ticks))
    part = engine.target(batch_of([5]), "a")
    assert part.seconds == 2.5
    assert engine.score(batch_of([5]), combine(["a"], [part])).seconds == 1.0


def test_a_bank_of_another_model_or_sketch_is_refused():
    _, engine = build()
    _, other = build("gpt2_lora")
    with pytest.raises(ModelError, match="does not fit the model at"):
        engine.score(batch_of([5]), bank_of(other))
    _, sketching = build(sketch=HashSketch(dim=64), scoring="sketch")
    with pytest.raises(ConfigError, match="of 64 dimensions"):
        sketching.score(batch_of([5]), bank_of(engine))
