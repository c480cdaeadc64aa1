"""Sentence embeddings: any encoder that transformers loads, its token states averaged, unit length.

A text's embedding does not depend on what shares its batch: padding is masked in attention and in the average.
"""

# transformers is typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from clusterucb.checkpoint.checkpoint_files import first_line, local_or_hub, tensor_shapes
from clusterucb.checkpoint.one_at_a_time import one_at_a_time
from clusterucb.config import EmbeddingFeatures
from clusterucb.errors import ModelError
from clusterucb.features.pooling import pool, unit_rows
from clusterucb.types import Hidden, IntArray

_BAD_INPUT = (OSError, ValueError, KeyError, TypeError, ImportError)


class Encoder:
    """Embeds texts. Raises ModelError where no encoder with a tokenizer stands under the configured name."""

    def __init__(self, config: EmbeddingFeatures, device: torch.device) -> None:
        self._config = config
        self._device = device
        self._tokenizer, self._model = _load(config.encoder)
        nn.Module.to(self._model, device)
        positions = getattr(self._model.config, "max_position_embeddings", None) or config.max_length
        # RoBERTa starts counting positions after its padding id.
        offset = (self._model.config.pad_token_id or 0) + 1 if "roberta" in self._model.config.model_type else 0
        self._max_length = min(config.max_length, positions - offset)

    @torch.inference_mode()
    def features(self, samples: IntArray, texts: Sequence[str]) -> Hidden:
        """Return the embeddings of the samples whose text has any; the others are reported."""
        started = time.perf_counter()
        assert len(samples) == len(texts)
        parts = [
            self._pooled(texts[i : i + self._config.batch_size]) for i in range(0, len(texts), self._config.batch_size)
        ]
        pooled_BF = torch.cat(parts) if parts else torch.empty(0, self._model.config.hidden_size)
        samples_B, features_BF, failures = unit_rows(np.asarray(samples, dtype=np.int64), pooled_BF)
        return Hidden(samples_B, features_BF, failures, time.perf_counter() - started)

    def _pooled(self, texts: Sequence[str]) -> Tensor:
        encoded = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._device)
        states_BTF = self._model(**encoded).last_hidden_state
        return pool(states_BTF, encoded["attention_mask"].bool(), weighted=False)


@one_at_a_time
def check_encoder(name: str) -> int:
    """Return an encoder's number of parameters; its weights stay unread.

    Raises ModelError where no encoder with a tokenizer stands under `name`.
    """
    place = _place(name)
    try:
        settings = AutoConfig.from_pretrained(place, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except _BAD_INPUT as error:
        raise _does_not_load(name, error) from error
    _check_kind(name, settings, tokenizer)
    try:
        with torch.device("meta"):
            skeleton = AutoModel.from_config(settings, trust_remote_code=False)
    except (*_BAD_INPUT, RuntimeError) as error:
        raise _does_not_load(name, error) from error
    if Path(place).is_dir() and not tensor_shapes(Path(place)):
        raise ModelError(f"features.encoder {name} has no *.safetensors weights: save it with save_pretrained")
    return sum(parameter.numel() for parameter in skeleton.parameters())


@one_at_a_time
def _load(name: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    place = _place(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        loaded = AutoModel.from_pretrained(
            place, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (*_BAD_INPUT, RuntimeError, SafetensorError) as error:
        raise _does_not_load(name, error) from error
    model, report = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
    # Sentence encoders are often saved without the pooler, which is not used here.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ModelError(
            f"the weights of features.encoder {name} lack {len(missing)} tensors, first {missing[0]}: "
            "they would be random; give the complete encoder"
        )
    _check_kind(name, model.config, tokenizer)
    return tokenizer, model.eval().requires_grad_(False)


def _place(name: str) -> str:
    place = local_or_hub(name, "features.encoder")
    if Path(place).is_dir() and not (Path(place) / "config.json").exists():
        raise ModelError(f"features.encoder {name} has no config.json: give the folder that save_pretrained wrote")
    return place


def _check_kind(name: str, settings: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    if settings.is_encoder_decoder:
        raise ModelError(f"features.encoder {name} is an encoder-decoder: give an encoder such as a BERT")
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of features.encoder {name} has no padding token: give an encoder such as a BERT"
        )


def _does_not_load(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"features.encoder {name} does not load ({first_line(error)}): give a folder with an encoder, its "
        "safetensors weights and its tokenizer, or a hub id that is reachable"
    )
