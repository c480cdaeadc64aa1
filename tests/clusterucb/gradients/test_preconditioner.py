"""The Adam direction equals its definition, in float64, entry by entry."""

import pytest
import torch
from gradient_cases import CPU, adam_by_hand, batch_of, llama_linears, llama_lora, random_moments, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterucb.checkpoint.layers import find_layers
from clusterucb.checkpoint.moments import Moments
from clusterucb.config import Adam, Plain
from clusterucb.errors import ModelError
from clusterucb.gradients.engine import GradientEngine
from clusterucb.gradients.preconditioner import direction


@settings(deadline=None, max_examples=30)
@given(
    beta1=st.sampled_from([0.0, 0.5, 0.9]),
    beta2=st.sampled_from([0.9, 0.999]),
    eps=st.sampled_from([1e-12, 1e-8, 1e-2]),
    inside=st.booleans(),
    scale=st.sampled_from([1e-6, 1e-3, 1.0]),
)
def test_equal_to_the_definition(beta1, beta2, eps, inside, scale):
    adam = Adam(beta1=beta1, beta2=beta2, eps=eps, eps_inside_root=inside)
    model, config = llama_linears()
    layers = find_layers(model, config.modules)
    moments = random_moments({layer.name: layer.shape for layer in layers}, scale=scale)
    transform = direction(adam, layers, moments, CPU)
    generator = torch.Generator().manual_seed(1)
    for layer in layers:
        gradient = scale * torch.randn(3, *layer.shape, generator=generator)
        expected = adam_by_hand(gradient, moments.exp_avg[layer.name], moments.exp_avg_sq[layer.name], adam)
        found = layer.parameter(transform(layer.name, layer.rows(gradient).clone()))
        assert found.dtype == torch.float32
        assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("inside", [True, False])
def test_the_engine_applies_it_to_every_parameter(inside):
    adam = Adam(eps_inside_root=inside)
    model, config = llama_lora()
    shapes = GradientEngine(model, config, None, CPU).shapes
    moments = random_moments(shapes, scale=1e-2)
    engine = GradientEngine(model, config.model_copy(update={"precondition": adam}), moments, CPU)
    batch = batch_of([6, 9])
    plain, found = engine.gradients(batch, plain=True), engine.gradients(batch)
    for name, gradient in plain.vectors.items():
        expected = adam_by_hand(gradient, moments.exp_avg[name], moments.exp_avg_sq[name], adam)
        assert relative_error(found.vectors[name], expected) < 1e-5


def test_the_moments_are_left_as_they_were():
    model, config = llama_lora()
    layers = find_layers(model, config.modules)
    moments = random_moments({layer.name: layer.shape for layer in layers})
    before = {name: tensor.clone() for name, tensor in moments.exp_avg.items()}
    transform = direction(Adam(), layers, moments, CPU)
    transform(layers[0].name, torch.ones(1, layers[0].size))
    assert all(torch.equal(before[name], tensor) for name, tensor in moments.exp_avg.items())


def test_without_moments_or_with_plain_the_gradient_is_taken_as_it_is():
    model, config = llama_lora()
    layers = find_layers(model, config.modules)
    moments = random_moments({layer.name: layer.shape for layer in layers})
    gradient = torch.randn(2, layers[0].size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(direction(Adam(), layers, None, CPU)(layers[0].name, gradient.clone()), gradient)
    assert torch.equal(direction(Plain(), layers, moments, CPU)(layers[0].name, gradient.clone()), gradient)


def test_missing_moments_are_said_aloud():
    model, config = llama_lora()
    assert any("no Adam moments" in note for note in GradientEngine(model, config, None, CPU).notes)
    shapes = GradientEngine(model, config, None, CPU).shapes
    assert GradientEngine(model, config, random_moments(shapes), CPU).notes == ()


def test_moments_of_another_model_are_refused():
    model, config = llama_lora()
    moments = random_moments(GradientEngine(model, config, None, CPU).shapes)
    name = next(iter(moments.exp_avg))
    with pytest.raises(ModelError, match="belong"):
        GradientEngine(model, config, Moments({**moments.exp_avg, name: torch.zeros(1, 1)}, moments.exp_avg_sq, 1), CPU)
