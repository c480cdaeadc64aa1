"""The loss of a sample is the mean over its own labels; the short cut through the head equals the full logits."""

import numpy as np
import pytest
import torch
from gradient_cases import CPU, adapted, batch_of, flat, frozen, llama_lora, relative_error, truth
from tiny_models import VOCABULARY, tiny_gpt2, tiny_llama, tiny_neox
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PreTrainedModel,
)

from clusterucb.config import Gradients
from clusterucb.gradients.engine import GradientEngine

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


def built(cls, config) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls(config).eval()


MODELS = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    "neox": tiny_neox,
    "gemma2 caps its logits": lambda: built(
        Gemma2ForCausalLM, Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=3.0)
    ),
    "cohere scales its logits": lambda: built(CohereForCausalLM, CohereConfig(**SIZES, logit_scale=0.25)),
    "granite divides its logits": lambda: built(GraniteForCausalLM, GraniteConfig(**SIZES, logits_scaling=4.0)),
}
LINEARS = (r".*layers\.0\.(self_attn|attention)\.(v_proj|query_key_value)|transformer\.h\.0\.attn\.c_attn",)


@pytest.mark.parametrize("name", MODELS)
def test_the_head_alone_reproduces_the_model_and_its_gradients(name):
    model = frozen(MODELS[name]())
    engine = GradientEngine(model, Gradients(modules=LINEARS, loss_chunk=5), None, CPU)
    assert not any("full logits" in note for note in engine.notes)
    batch = batch_of([7, 3, 16])
    found = engine.gradients(batch)
    losses, expected = truth(model, list(engine.shapes), batch)
    np.testing.assert_allclose(found.loss_B, losses, rtol=1e-5)
    assert relative_error(flat(found.vectors), flat(expected)) < 2e-5


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_the_chunk_changes_nothing(chunk):
    model, _ = llama_lora()
    batch = batch_of([7, 3, 16])
    whole = GradientEngine(model, Gradients(), None, CPU).gradients(batch)
    found = GradientEngine(model, Gradients(loss_chunk=chunk), None, CPU).gradients(batch)
    assert relative_error(flat(found.vectors), flat(whole.vectors)) < 1e-5
    np.testing.assert_allclose(found.loss_B, whole.loss_B, rtol=1e-6)


class Odd(torch.nn.Module):
    """A model that does to its logits what no configuration tells."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_llama()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.inner.lm_head

    def forward(self, **inputs):
        output = self.inner(**inputs)
        output.logits = torch.sin(output.logits)
        return output


@pytest.mark.parametrize("kind", ["unknown logits", "hooked head", "adapted head"])
def test_otherwise_the_full_logits_are_used_and_said_to_be(kind):
    if kind == "unknown logits":
        model, config = frozen(Odd()), Gradients(modules=(r"inner\.model\.layers\.1\.mlp\.up_proj",))
    elif kind == "hooked head":
        model, config = frozen(tiny_llama()), Gradients(modules=("lm_head",))
    else:
        model, config = adapted(tiny_llama(), ["q_proj", "lm_head"]), Gradients()
    engine = GradientEngine(model, config, None, CPU)
    assert any("full logits" in note for note in engine.notes)
    batch = batch_of([7, 3, 16])
    losses, expected = truth(model, list(engine.shapes), batch)
    found = engine.gradients(batch)
    np.testing.assert_allclose(found.loss_B, losses, rtol=1e-5)
    assert relative_error(flat(found.vectors), flat(expected)) < 1e-5
