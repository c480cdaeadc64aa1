"""The bank is the mean of unit gradients, however the examples were shared out; it survives its file."""

import numpy as np
import pytest
import torch
from gradient_cases import CPU, batch_of, flat, llama_lora, random_moments, relative_error

from clusterucb.config import NoSketch
from clusterucb.errors import DataError
from clusterucb.gradients.engine import GradientEngine
from clusterucb.gradients.padding import some
from clusterucb.gradients.targets import TargetBank, combine


def engine_with(**settings) -> GradientEngine:
    model, config = llama_lora()
    shapes = GradientEngine(model, config, None, CPU).shapes
    return GradientEngine(model, config.model_copy(update=settings), random_moments(shapes), CPU)


def means_of(bank: TargetBank) -> torch.Tensor:
    return flat(dict(bank.means))


def test_the_mean_of_unit_plain_gradients_is_kept_as_it_is():
    engine = engine_with()
    first, second = batch_of([6, 11, 4]), batch_of([8, 3], seed=1)
    bank = combine(["a", "b"], [engine.target(first, "a"), engine.target(second, "b")])
    assert (bank.subtasks, bank.counts) == (("a", "b"), (3, 2))
    expected = []
    for batch in (first, second):
        gradients = flat(engine.gradients(batch, plain=True).vectors)
        expected.append((gradients / gradients.norm(dim=1, keepdim=True)).mean(0))
    assert relative_error(means_of(bank), torch.stack(expected)) < 1e-5
    assert means_of(bank).norm(dim=1).max() < 0.999
    assert {name: mean.shape[1:] for name, mean in bank.means.items()} == engine.shapes


def test_shares_and_batches_change_nothing():
    engine = engine_with()
    batch = batch_of([6, 11, 4, 9])
    whole = combine(["a"], [engine.target(batch, "a")])
    parts = [engine.target(some(batch, np.array(rows)), "a") for rows in ([2], [0, 3], [1])]
    shared = combine(["a"], parts)
    assert relative_error(means_of(shared), means_of(whole)) < 1e-5
    np.testing.assert_allclose(shared.sketch_SD, whole.sketch_SD, atol=1e-6)


def test_sketches_are_means_of_unit_sketches_of_plain_gradients():
    engine = engine_with()
    bank = combine(["a"], [engine.target(batch_of([6, 11, 4]), "a")])
    cosines = torch.nn.functional.cosine_similarity(bank.sketch_SD, bank.sketch_SD.roll(1, 0))
    assert bank.sketch_SD.shape == (1, 8192)
    assert cosines.item() == pytest.approx(1.0)
    assert bank.sketch_SD.norm() == pytest.approx(float(means_of(bank).norm()), rel=0.05)
    assert combine(["a"], [engine_with(sketch=NoSketch()).target(batch_of([6]), "a")]).sketch_SD is None


def test_bank_survives_its_file_and_the_fingerprint_tells_banks_apart(tmp_path):
    engine = engine_with()
    bank = combine(["a", "é"], [engine.target(batch_of([6, 11]), "a"), engine.target(batch_of([5], seed=2), "é")])
    bank.save(tmp_path / "bank.safetensors")
    again = TargetBank.load(tmp_path / "bank.safetensors")
    assert (again.subtasks, again.counts, again.fingerprint) == (bank.subtasks, bank.counts, bank.fingerprint)
    assert all(torch.equal(again.means[name], mean) for name, mean in bank.means.items())
    assert torch.equal(again.sketch_SD, bank.sketch_SD)
    assert [path.name for path in tmp_path.iterdir()] == ["bank.safetensors"]
    other = combine(["a"], [engine.target(batch_of([6, 11], seed=3), "a")])
    assert other.fingerprint != bank.fingerprint
    assert bank.to(CPU).fingerprint == bank.fingerprint


def test_another_file_is_no_bank(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(DataError, match=r"x\.safetensors is no target bank"):
        TargetBank.load(tmp_path / "x.safetensors")


def test_failed_examples_are_reported_and_a_subtask_without_any_is_an_error():
    engine = engine_with()
    batch = batch_of([6, 4, 5])
    labels_T = batch.labels_T.copy()
    labels_T[6:10] = False
    broken = type(batch)(batch.samples_B, batch.tokens_T, labels_T, batch.offsets)
    part = engine.target(broken, "a")
    assert [(failure.sample, failure.reason) for failure in part.failures] == [(101, "no_label_tokens")]
    assert part.count == 2
    good = combine(["a"], [part])
    kept = combine(["a"], [engine.target(some(batch, np.array([0, 2])), "a")])
    assert relative_error(means_of(good), means_of(kept)) < 1e-5
    nothing = engine.target(some(broken, np.array([1])), "maths")
    assert nothing.count == 0
    with pytest.raises(DataError, match=r"'maths' has no usable example of 1 \(no_label_tokens\)"):
        combine(["a", "maths"], [part, nothing])
