"""Load the model whose gradients are taken: base, adapter, tokenizer; and check it first without its weights.

A loaded model is in eval mode, no parameter requires a gradient (whoever takes gradients says where), every weight is
finite, and none was made up: a tensor that the files lack is an error. No code of a model's repository is ever run.
"""

# transformers, peft and safetensors are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from clusterucb.checkpoint.checkpoint_files import (
    adapter_folder,
    check_base_folder,
    check_finite_files,
    first_line,
    local_or_hub,
    tensor_shapes,
)
from clusterucb.checkpoint.gathering import GatheredWeights
from clusterucb.checkpoint.layers import find_layers
from clusterucb.checkpoint.lora import add_fresh_lora, add_trained_lora
from clusterucb.checkpoint.moments import check_moments, load_moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.checkpoint.one_at_a_time import one_at_a_time
from clusterucb.config import Gradients, Model
from clusterucb.errors import ModelError

Modules = Literal["lora"] | tuple[str, ...]

Sharding = Callable[[torch.dtype], AbstractContextManager[None]]
"""Opens the context in which base weights of this type are loaded in shares, one a rank."""

_BAD_INPUT = (OSError, ValueError, KeyError, TypeError, ImportError, StrictDataclassError)
_FINITE_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready for gradients, and what the user must hear about it."""

    model: PreTrainedModel | PeftModel
    notes: tuple[str, ...]
    shared: GatheredWeights | None = None
    """Brings the base weights together where this process holds a share of them."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes that settle the cost of a gradient."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int | None
    """Tokens that the model has positions for, where its configuration says."""
    gradient_tensors: int
    gradient_coordinates: int


def load_tokenizer(config: Model) -> PreTrainedTokenizerBase:
    """Load the base model's tokenizer. Raises ModelError where it has more tokens than the model has embedding rows."""
    base = local_or_hub(config.base, "model.base")
    rows = _base_config(config).get_text_config().vocab_size
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, revision=config.revision, trust_remote_code=False)
    except _BAD_INPUT as error:
        raise ModelError(
            f"model.base {config.base} has no tokenizer that transformers loads ({first_line(error)}): "
            "put the tokenizer's files beside the weights"
        ) from error
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest < 0:
        raise ModelError(
            f"the tokenizer of model.base {config.base} is empty: put the tokenizer's files beside the weights"
        )
    if largest >= rows:
        raise ModelError(
            f"the tokenizer of {config.base} has token {largest} but the model only {rows} embedding rows: "
            "use the model's own tokenizer, or resize the embeddings and save both together"
        )
    return tokenizer


@one_at_a_time
def load_model(
    config: Model, device: torch.device, seed: int, modules: Modules, sharding: Sharding | None = None
) -> LoadedModel:
    """Load base model and adapter onto `device`; `seed` settles a fresh adapter's weights.

    With regular expressions as `modules` (gradients of base layers) a fresh adapter is left out. With `sharding` this
    process holds its share of the base weights; the adapter is whole everywhere.
    Raises ModelError for whatever is missing, broken, not finite or does not belong together.
    """
    _checked_skeleton(config, modules)
    base = local_or_hub(config.base, "model.base")
    dtype = weight_dtype(config, device)
    try:
        with nullcontext() if sharding is None else sharding(dtype):
            loaded = AutoModelForCausalLM.from_pretrained(
                base,
                revision=config.revision,
                dtype=dtype,
                attn_implementation=config.attention,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **({"device_map": {"": device}} if device.type != "cpu" and sharding is None else {}),
            )
    except (*_BAD_INPUT, RuntimeError, SafetensorError) as error:
        raise ModelError(f"model.base {config.base} does not load: {first_line(error)}") from error
    model, report = cast(tuple[PreTrainedModel, dict[str, set[str]]], loaded)
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"the weights of model.base {config.base} lack {len(missing)} tensors, first {missing[0]}: "
            "they would be random; give the complete model"
        )
    adapted, notes = _with_adapter(model, config, seed, modules)
    adapted.eval().requires_grad_(False)
    check_finite(adapted.named_parameters())
    return LoadedModel(adapted, notes)


@one_at_a_time
def check_model(config: Model, gradients: Gradients) -> tuple[str, ...]:
    """Refuse a model, tokenizer, adapter or moments that cannot work, without loading base weights.

    Returns the notes that `load_model` would give, as far as they are known without weights. Raises ModelError.
    """
    load_tokenizer(config)
    model, notes = _checked_skeleton(config, gradients.modules)
    if config.adapter is not None:
        check_finite_files(adapter_folder(config.adapter))
    shapes = {layer.name: torch.Size(layer.shape) for layer in find_layers(model, gradients.modules)}
    if config.moments is not None:
        check_moments(load_moments(Path(config.moments), model), shapes)
    return notes


@one_at_a_time
def describe(config: Model, gradients: Gradients) -> ModelShape:
    """Return the model's sizes, from its configuration alone."""
    skeleton = _skeleton(config)
    num_parameters = sum(p.numel() for p in skeleton.parameters())
    model, _ = _with_adapter(skeleton, config, 0, gradients.modules)
    layers = find_layers(model, gradients.modules)
    text = skeleton.config.get_text_config()
    return ModelShape(
        num_parameters=num_parameters,
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        max_positions=getattr(text, "max_position_embeddings", None),
        gradient_tensors=len(layers),
        gradient_coordinates=sum(layer.size for layer in layers),
    )


def weight_dtype(config: Model, device: torch.device) -> torch.dtype:
    """Return the type of the base weights: `auto` is bfloat16 on a GPU that has it and float32 elsewhere."""
    if config.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]


def _base_config(config: Model) -> PretrainedConfig:
    base = local_or_hub(config.base, "model.base")
    if Path(base).is_dir():
        check_base_folder(Path(base))
        _check_json(Path(base) / "config.json")
    try:
        settings = AutoConfig.from_pretrained(base, revision=config.revision, trust_remote_code=False)
    except _BAD_INPUT as error:
        if not Path(base).is_dir() and isinstance(error, OSError):
            raise ModelError(
                f"model.base {config.base} is no folder here and the hub does not give it ({first_line(error)}): "
                "give a folder, or go online"
            ) from error
        raise ModelError(
            f"model.base {config.base} has a config.json that cannot be used: {first_line(error)}"
        ) from error
    kind = settings.model_type
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(settings, "is_decoder", False)
    if encoder or settings.is_encoder_decoder or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"model.base {config.base} ({kind}) is not a causal language model: give a decoder such as llama or qwen"
        )
    return settings


def _check_json(path: Path) -> None:
    try:
        json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({first_line(error)}): copy or download it again") from error


def _skeleton(config: Model) -> PreTrainedModel:
    """Build the base model on the meta device: names and shapes, no memory."""
    settings = _base_config(config)
    # The driver may lack the kernels that the workers have.
    attention = "eager" if config.attention == "flash_attention_2" else config.attention
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(settings, attn_implementation=attention, trust_remote_code=False)
    except (*_BAD_INPUT, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(
            f"model.base {config.base} has a config.json that builds no model: {first_line(error)}"
        ) from error


def _checked_skeleton(config: Model, modules: Modules) -> tuple[PreTrainedModel | PeftModel, tuple[str, ...]]:
    """Return the model with its adapter on the meta device, after everything that needs no weights was checked."""
    skeleton = _skeleton(config)
    base = Path(local_or_hub(config.base, "model.base"))
    if base.is_dir():
        _check_shapes(skeleton, base)
    return _with_adapter(skeleton, config, 0, modules)


def _check_shapes(skeleton: PreTrainedModel, folder: Path) -> None:
    wanted = {name: tensor.shape for name, tensor in skeleton.state_dict().items()}
    for name, shape in tensor_shapes(folder).items():
        if name in wanted and wanted[name] != shape:
            raise ModelError(
                f"{name} in {folder} has shape {tuple(shape)} but config.json means {tuple(wanted[name])}: "
                "weights and config.json belong to different models"
            )


def _with_adapter(
    model: PreTrainedModel, config: Model, seed: int, modules: Modules
) -> tuple[PreTrainedModel | PeftModel, tuple[str, ...]]:
    if config.adapter is not None:
        return add_trained_lora(model, config.adapter)
    if modules == "lora":
        return add_fresh_lora(model, config.lora, seed)
    return model, ()


def check_finite(weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise ModelError where a weight has values that are not finite."""
    for name, weight in weights:
        if not weight.is_floating_point():
            continue
        for block in weight.detach().flatten().split(_FINITE_BLOCK):
            if not bool(torch.isfinite(block).all()):
                raise ModelError(
                    f"{canonical_name(name)} has NaN or infinite weights: the checkpoint is broken, give an earlier one"
                )
