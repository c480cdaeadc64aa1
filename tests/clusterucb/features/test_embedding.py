"""Embeddings are the masked mean of the encoder's states, whatever the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from clusterucb.config import EmbeddingFeatures
from clusterucb.errors import ModelError
from clusterucb.features.embedding import Encoder

CPU = torch.device("cpu")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer BERT of characters, with its tokenizer."""
    path = tmp_path_factory.mktemp("encoder")
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *map(chr, range(32, 127))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(path)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(path)
    return path


def an_encoder(folder: Path, **settings: int) -> Encoder:
    return Encoder(EmbeddingFeatures(encoder=str(folder), **settings), CPU)


def test_a_feature_is_the_unit_mean_of_the_encoders_states(folder: Path):
    texts = ["Add 2 and 3.", "x", "A longer text, of 31 characters"]
    hidden = an_encoder(folder).features(np.array([4, 9, 2]), texts)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    for row, text in zip(hidden.features_BF, texts, strict=True):
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, mean / mean.norm(), atol=6e-4)
    assert hidden.samples_B.tolist() == [4, 9, 2]
    assert hidden.features_BF.dtype == np.float16
    assert hidden.failures == ()


@settings(max_examples=20, deadline=None)
@given(texts=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60), min_size=1, max_size=7))
def test_a_batch_of_n_equals_n_batches_of_one(folder: Path, texts: list[str]):
    together = an_encoder(folder, batch_size=3).features(np.arange(len(texts)), texts)
    alone = an_encoder(folder, batch_size=1).features(np.arange(len(texts)), texts)
    np.testing.assert_allclose(together.features_BF.astype(float), alone.features_BF.astype(float), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(together.features_BF.astype(float), axis=1), 1.0, atol=1e-3)


def test_only_the_first_tokens_count(folder: Path):
    encoder = an_encoder(folder, max_length=10)
    features = encoder.features(np.arange(2), ["12345678 and more", "12345678 or less"]).features_BF
    np.testing.assert_array_equal(features[0], features[1])


def test_texts_beyond_the_encoders_positions_are_cut(folder: Path):
    encoder = an_encoder(folder, max_length=256)  # the encoder has 48 positions
    features = encoder.features(np.arange(2), ["a" * 300, "a" * 46]).features_BF
    np.testing.assert_allclose(features[0].astype(float), features[1].astype(float), atol=1e-3)


def test_no_texts_have_no_features(folder: Path):
    hidden = an_encoder(folder).features(np.array([], dtype=np.int64), [])
    assert hidden.features_BF.shape == (0, 32)


def test_a_missing_or_broken_encoder_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"features\.encoder .*nowhere does not exist"):
        an_encoder(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"config\.json"):
        an_encoder(tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors, first encoder\.layer\.1\.output\.dense\.weight"):
        an_encoder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        an_encoder(tmp_path)
