"""Features are the hidden states transformers gives, whatever the batch, and nothing later is computed."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_gpt2, tiny_llama, tiny_neox
from transformers import PreTrainedModel

from clusterucb.config import HiddenFeatures
from clusterucb.errors import ConfigError
from clusterucb.features.hidden import HiddenFeaturiser, find_blocks
from clusterucb.types import TokenBatch

BUILDERS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "neox": tiny_neox}
LENGTHS = (7, 1, 12, 3)


def a_batch(lengths: Sequence[int], seed: int = 0) -> TokenBatch:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = rng.integers(0, 90, offsets[-1], dtype=np.int32)
    labels = np.zeros(len(tokens), dtype=np.bool_)
    return TokenBatch(100 + np.arange(len(lengths)), tokens, labels, offsets)


def one(batch: TokenBatch, i: int) -> TokenBatch:
    tokens, labels = batch.row(i)
    return TokenBatch(batch.samples_B[i : i + 1], tokens, labels, np.array([0, len(tokens)]))


def reference(model: PreTrainedModel, batch: TokenBatch, index: int, weighted: bool) -> np.ndarray:
    """Pool transformers' own hidden states, one sample at a time."""
    rows = []
    for i in range(len(batch)):
        tokens = torch.from_numpy(batch.row(i)[0].astype(np.int64))[None]
        with torch.no_grad():
            states = model(tokens, output_hidden_states=True).hidden_states[index][0].double()
        weights = torch.arange(1.0, len(states) + 1) if weighted else torch.ones(len(states))
        row = (weights.double() / weights.sum()) @ states
        rows.append((row / row.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("pooling", ["weighted", "mean"])
@pytest.mark.parametrize("architecture", BUILDERS)
def test_features_equal_the_hidden_states_of_transformers(architecture: str, pooling: str):
    depth = 4
    model = BUILDERS[architecture](layers=depth)
    batch = a_batch(LENGTHS)
    # transformers' last entry is taken after the final norm, all others are a block's own output
    for layer, index in [("final", depth), ("middle", 2), *((i, i) for i in range(1, depth))]:
        hidden = HiddenFeaturiser(model, HiddenFeatures(layer=layer, pooling=pooling)).features(batch)
        expected = reference(model, batch, index, pooling == "weighted")
        np.testing.assert_allclose(hidden.features_BF, expected, atol=6e-4)
        assert hidden.samples_B.tolist() == batch.samples_B.tolist()
        assert hidden.features_BF.dtype == np.float16
        assert hidden.failures == ()


def test_the_last_block_by_index_is_taken_before_the_final_norm():
    model = tiny_llama(layers=3)
    batch = a_batch((9,))
    seen: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(torch.from_numpy(batch.tokens_T.astype(np.int64))[None])
    hidden = HiddenFeaturiser(model, HiddenFeatures(layer=3, pooling="mean")).features(batch)
    expected = seen[0][0].mean(0)
    np.testing.assert_allclose(hidden.features_BF[0], expected / expected.norm(), atol=6e-4)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6), layer=st.sampled_from(["final", "middle", 2]))
def test_a_batch_of_n_equals_n_batches_of_one(lengths: list[int], layer: str | int):
    featuriser = HiddenFeaturiser(tiny_llama(), HiddenFeatures(layer=layer))
    batch = a_batch(lengths, seed=len(lengths))
    together = featuriser.features(batch).features_BF
    apart = np.concatenate([featuriser.features(one(batch, i)).features_BF for i in range(len(batch))])
    np.testing.assert_allclose(together.astype(float), apart.astype(float), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(together.astype(float), axis=1), 1.0, atol=1e-3)


@pytest.mark.parametrize("architecture", BUILDERS)
def test_no_later_block_runs_and_no_vocabulary_projection(architecture: str):
    model = BUILDERS[architecture](layers=4)
    ran: list[int] = []
    for i, block in enumerate(find_blocks(model), 1):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    model.get_output_embeddings().register_forward_hook(lambda *_: ran.append(-1))
    for layer, blocks in (("middle", [1, 2]), (3, [1, 2, 3]), ("final", [1, 2, 3, 4])):
        ran.clear()
        HiddenFeaturiser(model, HiddenFeatures(layer=layer)).features(a_batch(LENGTHS))
        assert ran == blocks


def test_the_model_is_left_as_it_was():
    model = tiny_llama()
    tokens = torch.arange(9)[None]
    before = model(tokens).logits
    HiddenFeaturiser(model, HiddenFeatures(layer=1)).features(a_batch(LENGTHS))
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(model(tokens).logits, before)


def test_an_adapter_takes_part():
    batch = a_batch(LENGTHS)
    config = HiddenFeatures(layer="middle")
    bare = HiddenFeaturiser(tiny_llama(), config).features(batch).features_BF
    adapted = get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj", "v_proj"])).eval()
    np.testing.assert_array_equal(HiddenFeaturiser(adapted, config).features(batch).features_BF, bare)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.3)
    assert not np.allclose(HiddenFeaturiser(adapted, config).features(batch).features_BF, bare, atol=1e-2)


@pytest.mark.parametrize(
    ("value", "reason"), [(torch.nan, "non_finite"), (torch.inf, "non_finite"), (0.0, "zero_gradient")]
)
def test_a_sample_without_a_direction_is_reported_and_the_others_keep_theirs(value: float, reason: str):
    model = tiny_gpt2()
    batch = TokenBatch(
        np.array([5, 6, 7]), np.array([1, 2, 91, 91, 3, 4], np.int32), np.zeros(6, np.bool_), np.array([0, 2, 4, 6])
    )
    model.transformer.h[0].register_forward_hook(
        lambda _, inputs, output: torch.where((batch_ids() == 91)[..., None], torch.tensor(value), output)
    )

    def batch_ids() -> torch.Tensor:
        return torch.from_numpy(batch.tokens_T.reshape(3, 2))

    hidden = HiddenFeaturiser(model, HiddenFeatures(layer=1)).features(batch)
    assert [(failure.sample, failure.reason) for failure in hidden.failures] == [(6, reason)]
    assert hidden.samples_B.tolist() == [5, 7]
    assert np.isfinite(hidden.features_BF).all()


def test_an_empty_batch_has_no_features():
    hidden = HiddenFeaturiser(tiny_llama(), HiddenFeatures()).features(a_batch(()))
    assert hidden.features_BF.shape == (0, 32)
    assert len(hidden.samples_B) == 0


@pytest.mark.parametrize("layer", [0, 3, -1])
def test_a_block_that_is_not_there_is_refused(layer: int):
    with pytest.raises(ConfigError, match=f"features.layer is {layer}.*blocks 1 to 2"):
        HiddenFeaturiser(tiny_llama(), HiddenFeatures(layer=layer))
