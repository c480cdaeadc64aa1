"""Output gradients against autograd: a linear map between the model and its output embedding, differentiated."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gradient_cases import CPU, batch_of, frozen, relative_error
from tiny_models import tiny_gpt2, tiny_llama, tiny_neox
from torch import Tensor, nn
from torch.nn import functional

from clusterucb.config import HashSketch, OutputGradientFeatures
from clusterucb.errors import ModelError
from clusterucb.features.output_gradient import MAP, OutputGradientFeaturiser
from clusterucb.gradients.losses import SupervisedLoss
from clusterucb.gradients.padding import some
from clusterucb.gradients.sketch import SignedHash
from clusterucb.types import TokenBatch

CONFIG = OutputGradientFeatures(dim=512, seed=3)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": tiny_llama,
    "tied": lambda: tiny_llama(tied=True),
    "gpt2": tiny_gpt2,
    "neox": tiny_neox,
}


def oracle(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Return, for one sample at a time, the gradient of the map in the sample's mean loss: [B, d, d]."""
    head = model.get_output_embeddings()
    found: list[Tensor] = []
    for i in range(len(batch)):
        tokens_T, labels_T = batch.row(i)
        ids = torch.from_numpy(tokens_T.astype(np.int64))[None]
        supervised = torch.from_numpy(np.flatnonzero(labels_T))
        hidden_Td = model.base_model(input_ids=ids).last_hidden_state[0]
        inserted = torch.eye(hidden_Td.shape[1], requires_grad=True)
        logits_TV = head(hidden_Td @ inserted.T)
        loss = functional.cross_entropy(logits_TV[supervised - 1], ids[0, supervised])
        found.append(torch.autograd.grad(loss, inserted)[0])
    return torch.stack(found)


def featuriser(model: nn.Module) -> OutputGradientFeaturiser:
    return OutputGradientFeaturiser(SupervisedLoss(frozen(model), (), 7), CONFIG, CPU)


@pytest.mark.parametrize("name", MODELS)
def test_features_are_the_sketch_of_autograds_gradient(name: str):
    model, batch = MODELS[name](), batch_of([9, 30, 4, 17])
    actual = featuriser(model).features(batch)
    gradient_BP = oracle(model, batch).flatten(1)
    expected_BD = torch.zeros(4, CONFIG.dim)
    SignedHash(HashSketch(dim=CONFIG.dim, seed=CONFIG.seed), CPU).fold(MAP, gradient_BP, expected_BD)
    expected_BD /= expected_BD.norm(dim=1, keepdim=True)
    assert actual.samples_B.tolist() == batch.samples_B.tolist()
    assert not actual.failures
    assert relative_error(torch.from_numpy(actual.features_BF).float(), expected_BD) < 2e-3  # half precision
    cosine_BB = functional.normalize(gradient_BP) @ functional.normalize(gradient_BP).T
    kept_BB = torch.from_numpy(actual.features_BF.astype(np.float32) @ actual.features_BF.T.astype(np.float32))
    assert float((cosine_BB - kept_BB).abs().max()) < 5 / CONFIG.dim**0.5


def test_a_sample_is_what_it_is_alone_and_one_without_labels_is_reported():
    model, batch = tiny_llama(), batch_of([9, 30, 4])
    compute = featuriser(model)
    together = compute.features(batch)
    for i in range(len(batch)):
        alone = compute.features(some(batch, np.array([i])))
        np.testing.assert_allclose(together.features_BF[i], alone.features_BF[0], atol=2e-4)
    unlabelled = TokenBatch(batch.samples_B, batch.tokens_T, batch.labels_T.copy(), batch.offsets)
    unlabelled.labels_T[9:39] = False
    answer = compute.features(unlabelled)
    assert answer.samples_B.tolist() == [100, 102]
    assert [(failure.sample, failure.reason) for failure in answer.failures] == [(101, "no_label_tokens")]


def test_a_model_whose_output_is_not_linear_is_refused():
    model = tiny_llama()
    plain = model.forward

    def bent(**inputs: object):
        out = plain(**inputs)
        out.logits = out.logits**3
        return out

    model.forward = bent
    with pytest.raises(ModelError, match=r"use features\.kind hidden"):
        featuriser(model).features(batch_of([5]))
