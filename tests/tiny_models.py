"""Real causal language models small enough for a test: random but seeded weights, in eval mode, float32, on the CPU.

The caller's global torch generator is left as it was. `tiny_tokenizer` maps printable characters to the ids below 96,
so that every text has tokens that every model here knows.
"""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from clusterucb.checkpoint.one_at_a_time import one_at_a_time

VOCABULARY = 96
_CHARACTERS = [chr(code) for code in range(32, 125)]  # 93 characters, then three special tokens
_SPECIAL = ["<unk>", "<s>", "</s>"]


def tiny_llama(
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = VOCABULARY,
    tied: bool = False,
    **more: object,
) -> LlamaForCausalLM:
    """Return a Llama whose layers differ enough from each other for tests to tell them apart."""
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        pad_token_id=None,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        **more,
    )
    return _built(LlamaForCausalLM, config, seed)


def tiny_gpt2(*, seed: int = 0, layers: int = 2, hidden: int = 32, vocab: int = VOCABULARY) -> GPT2LMHeadModel:
    """Return a GPT-2: Conv1D instead of nn.Linear, learned positions, tied embeddings."""
    config = GPT2Config(
        vocab_size=vocab,
        n_embd=hidden,
        n_layer=layers,
        n_head=4,
        n_positions=256,
        initializer_range=0.2,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
    )
    return _built(GPT2LMHeadModel, config, seed)


def tiny_neox(*, seed: int = 0, layers: int = 2, hidden: int = 32, vocab: int = VOCABULARY) -> GPTNeoXForCausalLM:
    """Return a GPT-NeoX: one fused query-key-value linear, biases, parallel residual."""
    config = GPTNeoXConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.2,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
    )
    return _built(GPTNeoXForCausalLM, config, seed)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a character tokenizer with ids below 96, `<s>` 94 and `</s>` 95."""
    vocabulary = {token: i for i, token in enumerate([*_CHARACTERS, *_SPECIAL])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=256
    )


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """Write model and tokenizer to `folder` as a user would bring them, and return it."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@one_at_a_time  # a service in a thread of the tests' process may be loading its own model
def _built(cls: type, config: object, seed: int):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(config).eval()
