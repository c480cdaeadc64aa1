"""Per-sample gradients are those of each sample alone, whatever the architecture, the batch or its order."""

import numpy as np
import pytest
import torch
from gradient_cases import CASES, CPU, adapted, batch_of, flat, frozen, llama_lora, relative_error, truth
from tiny_models import tiny_llama
from torch import nn

from clusterucb.checkpoint.layers import find_layers
from clusterucb.config import Gradients
from clusterucb.errors import ModelError
from clusterucb.gradients.collector import Collector
from clusterucb.gradients.engine import GradientEngine
from clusterucb.gradients.padding import some


@pytest.mark.parametrize("case", CASES)
def test_equal_to_autograd_one_sample_at_a_time(case):
    model, config = CASES[case]()
    engine = GradientEngine(model, config, None, CPU)
    batch = batch_of([5, 17, 3, 11])  # of two tokens, queries would have no gradient but rounding
    found = engine.gradients(batch)
    losses, expected = truth(model, list(engine.shapes), batch)
    np.testing.assert_allclose(found.loss_B, losses, rtol=1e-5)
    for name, gradients in expected.items():
        assert relative_error(found.vectors[name], gradients) < 1e-5, name


@pytest.mark.parametrize("case", ["llama_lora", "gpt2_conv1d"])
def test_batch_size_order_and_padding_change_nothing(case):
    model, config = CASES[case]()
    engine = GradientEngine(model, config, None, CPU)
    batch = batch_of([4, 30, 9, 9, 2])
    together = flat(engine.gradients(batch).vectors)
    alone = torch.cat([flat(engine.gradients(some(batch, np.array([i]))).vectors) for i in range(5)])
    order = np.array([3, 1, 4, 0, 2])
    shuffled = flat(engine.gradients(some(batch, order)).vectors)
    assert relative_error(together, alone) < 1e-5
    assert relative_error(shuffled, together[torch.from_numpy(order)]) < 1e-5


def test_frozen_weights_get_no_gradient_and_the_graph_ends_at_the_lowest_layer():
    model = adapted(tiny_llama(layers=3), ["layers.1.self_attn.v_proj"])
    engine = GradientEngine(model, Gradients(), None, CPU)
    reached: list[str] = []
    for i, block in enumerate(model.get_base_model().model.layers):

        def watch(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor, i: int = i) -> None:
            if output.requires_grad:
                reached.append(f"block {i}")

        block.register_forward_hook(watch)
    engine.gradients(batch_of([6, 8]))
    assert reached == ["block 1", "block 2"]
    assert all(parameter.grad is None for parameter in model.parameters())


class Recurrent(nn.Module):
    """One linear applied three times over, another that shares its weight, and one whose output is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twin, self.unused = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.twin.weight = self.once.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.unused(x)
        for _ in range(3):
            x = torch.tanh(self.once(x))
        return self.twin(x)


def test_calls_of_one_weight_are_summed_and_an_unused_layer_is_zero():
    model = frozen(Recurrent())
    layers = find_layers(model, (".*",))
    assert [layer.name for layer in layers] == ["once.weight", "unused.weight"]
    seen: dict[str, torch.Tensor] = {}

    def keep(layer, samples, gradient_BP):
        assert layer.name not in seen
        seen[layer.name] = layer.parameter(gradient_BP)

    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    with Collector(layers, keep, (4, 5)):
        model(x).square().sum().backward()

    def loss(weight, x):
        named = {"once.weight": weight, "twin.weight": weight}
        return torch.func.functional_call(model, named, (x,)).square().sum()

    expected = torch.stack([torch.func.grad(loss)(model.once.weight.detach(), x[i : i + 1]) for i in range(4)])
    assert relative_error(seen["once.weight"], expected) < 1e-5
    assert seen["unused.weight"].count_nonzero() == 0
    assert seen["unused.weight"].shape == (4, 2, 6)


def test_large_layers_are_formed_in_parts(monkeypatch):
    model, config = llama_lora()
    engine = GradientEngine(model, config, None, CPU)
    batch = batch_of([4, 12, 9])
    whole = flat(engine.gradients(batch).vectors)
    monkeypatch.setattr("clusterucb.gradients.collector.ELEMENTS_AT_ONCE", 100)
    assert relative_error(flat(engine.gradients(batch).vectors), whole) < 1e-6


def test_bfloat16_model_has_float32_gradients_close_to_the_float32_model():
    model, config = llama_lora()
    batch = batch_of([9, 14])
    exact = flat(GradientEngine(model, config, None, CPU).gradients(batch).vectors)
    half = GradientEngine(model.to(torch.bfloat16), config, None, CPU).gradients(batch)
    assert all(gradient.dtype == torch.float32 for gradient in half.vectors.values())
    cosine = torch.nn.functional.cosine_similarity(flat(half.vectors), exact)
    assert cosine.min() > 0.99


class Overwriting(nn.Module):
    """Changes a layer's input after the layer has read it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        return self.second(h) + h.mul_(2.0)


def test_a_layer_whose_input_is_overwritten_is_refused():
    model = frozen(Overwriting())
    layers = find_layers(model, ("second",))
    with (
        pytest.raises(ModelError, match=r"overwrites the input of second\.weight"),
        Collector(layers, lambda *_: None, (2, 4)),
    ):
        model(torch.ones(2, 4, 3)).sum().backward()


def test_tokens_that_cannot_be_told_apart_by_sample_are_refused():
    model = frozen(nn.Sequential(nn.Linear(3, 3)))
    with (
        pytest.raises(ModelError, match="cannot be told apart"),
        Collector(find_layers(model, ("0",)), lambda *_: None, (2, 4)),
    ):
        model(torch.ones(5, 3)).sum().backward()


def test_layers_that_do_not_exist_are_named():
    with pytest.raises(ModelError, match="matches no linear layer in full: a path looks like model"):
        find_layers(tiny_llama(), (r"layers\.9.*",))
    with pytest.raises(ModelError, match="no LoRA layer"):
        find_layers(tiny_llama(), "lora")
    with pytest.raises(ModelError, match="no regular expression"):
        find_layers(tiny_llama(), ("(",))


def test_a_layer_tied_to_the_embedding_is_refused():
    with pytest.raises(ModelError, match="shares its weight with the input embedding"):
        find_layers(tiny_llama(tied=True), ("lm_head",))


def test_regular_expressions_match_the_bare_path_of_an_adapted_model():
    layers = find_layers(adapted(tiny_llama(), ["q_proj"]), (r"model\.layers\.0\.self_attn\.[qk]_proj",))
    assert [layer.shape for layer in layers] == [(32, 32), (16, 32)]


def test_dora_is_refused_by_name():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(ModelError, match="whose gradient is not that of two linear layers"):
        find_layers(model, "lora")
