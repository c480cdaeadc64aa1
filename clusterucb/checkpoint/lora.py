"""LoRA on a base model: a trained adapter that must fit, or a fresh one whose weights follow from the seed alone.

A fresh adapter is identical on every process and device: each matrix is drawn by a counter-based generator keyed by
(seed, canonical parameter name). Adapter weights are float32 whatever the base model's type is.
"""

# transformers, peft and safetensors are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from clusterucb.checkpoint.checkpoint_files import adapter_folder, first_line, tensor_shapes
from clusterucb.checkpoint.names import canonical_name
from clusterucb.config import Lora
from clusterucb.errors import ModelError


def add_fresh_lora(model: PreTrainedModel, lora: Lora, seed: int) -> tuple[PeftModel, tuple[str, ...]]:
    """Put the adapter that `lora` describes on the model; return it with what the user should hear.

    A is uniform in +-1/sqrt(fan in), as peft starts it. On the meta device no weights are drawn.
    Raises ModelError where no layer has a target's name.
    """
    targets = lora.target_modules
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        target_modules=list(targets) if isinstance(targets, tuple) else targets,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, settings, low_cpu_mem_usage=True)
    except ValueError as error:
        raise ModelError(
            f"model.lora.target_modules {_listed(targets)} fits no layer of this {model.config.model_type} model: "
            f"use some of {', '.join(linear_names(model))}, or all-linear"
        ) from error
    assert isinstance(adapted, PeftModel)
    for name, layer in adapted.named_modules():
        if name.endswith("lora_A.default"):
            sibling = adapted.get_submodule(name.removesuffix("lora_A.default") + "lora_B.default")
            assert isinstance(layer, nn.Linear)
            assert isinstance(sibling, nn.Linear)
            _draw(name, layer, sibling, lora.init_b, seed, _device_of(adapted, name))
    return adapted, _fresh_notes(adapted, lora)


def add_trained_lora(model: PreTrainedModel, name: str) -> tuple[PeftModel, tuple[str, ...]]:
    """Load the adapter `name` (folder or hub id) onto the model; return it with what the user should hear.

    On the meta device its weights stay unread and its names and shapes are checked. Raises ModelError for an adapter
    that is not LoRA or belongs to another model, naming the parameters that do not fit.
    """
    folder = adapter_folder(name)
    settings = _lora_settings(folder)
    on_meta = model.device.type == "meta"
    try:
        if on_meta:
            settings.init_lora_weights = False
            adapted = get_peft_model(model, settings, low_cpu_mem_usage=True)
            _check_fit(adapted, folder)
        else:
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=False, config=settings)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise _does_not_fit(folder, first_line(error)) from error
    assert isinstance(adapted, PeftModel)
    notes: list[str] = []
    extra = [n for n in tensor_shapes(folder) if "lora_A" not in n and "lora_B" not in n]
    if extra:
        notes.append(
            f"the adapter changes {len(extra)} tensors besides its LoRA matrices (first {extra[0]}): "
            "their gradients do not count"
        )
    lora_b = [p for n, p in adapted.named_parameters() if "lora_B" in n]
    if not on_meta and not any(bool(p.count_nonzero()) for p in lora_b):
        notes.append("every LoRA-B of the adapter is zero (untrained): LoRA-A gradients vanish, only B's count")
    return adapted, tuple(notes)


def linear_names(model: nn.Module) -> list[str]:
    """Return the distinct last names of the model's linear layers, e.g. q_proj."""
    kinds = ("Linear", "Conv1D")
    return sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if type(module).__name__ in kinds})


def _draw(
    name: str, a: nn.Linear, b: nn.Linear, init_b: Literal["zero", "gaussian"], seed: int, device: torch.device
) -> None:
    if device.type == "meta":
        return
    fan_in = a.in_features
    draw_a, draw_b = (
        _generator(seed, canonical_name(f"{part}.weight")) for part in (name, name.replace("lora_A", "lora_B"))
    )
    uniform = draw_a.random((a.out_features, fan_in), dtype=np.float32)
    a_weight = (uniform * 2 - 1) / np.float32(np.sqrt(fan_in))
    b_shape = (b.out_features, b.in_features)
    if init_b == "zero":
        b_weight = np.zeros(b_shape, dtype=np.float32)
    else:
        b_weight = draw_b.standard_normal(b_shape, dtype=np.float32) * np.float32(0.01 / np.sqrt(3 * fan_in))
    for layer, weight in ((a, a_weight), (b, b_weight)):
        layer.weight = nn.Parameter(torch.from_numpy(weight).to(device), requires_grad=False)


def _generator(seed: int, name: str) -> np.random.Generator:
    key = hashlib.blake2b(f"lora {seed} {name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def _device_of(model: nn.Module, lora_name: str) -> torch.device:
    layer = model.get_submodule(lora_name.removesuffix(".lora_A.default"))
    return next(p.device for n, p in layer.named_parameters() if "lora_" not in n)


def _fresh_notes(model: nn.Module, lora: Lora) -> tuple[str, ...]:
    if lora.init_b == "zero":
        start = "LoRA-B is zero, so LoRA-A gradients vanish and only B's count"
    else:
        start = "A and B are random"
    notes = [f"model.adapter is not set: a fresh, seeded LoRA of rank {lora.r} stands in ({start})"]
    if isinstance(lora.target_modules, tuple):
        adapted = [name for name, _ in model.named_modules() if name.endswith(".lora_A")]
        idle = [t for t in lora.target_modules if not any(n.removesuffix(".lora_A").endswith(f".{t}") for n in adapted)]
        if idle:
            notes.append(
                f"model.lora.target_modules {', '.join(idle)} fit no layer; "
                f"this model has {', '.join(linear_names(model))}"
            )
    return tuple(notes)


def _lora_settings(folder: Path) -> LoraConfig:
    try:
        settings = PeftConfig.from_pretrained(str(folder))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ModelError(
            f"{folder / 'adapter_config.json'} cannot be read ({first_line(error)}): save the adapter again with peft"
        ) from error
    if not isinstance(settings, LoraConfig) or settings.peft_type != "LORA":
        raise ModelError(
            f"model.adapter {folder} is {settings.peft_type}, not LORA: only LoRA adapters have gradients here"
        )
    if settings.target_parameters:
        raise ModelError(
            f"model.adapter {folder} adapts bare parameters (target_parameters {settings.target_parameters}), "
            "whose per-sample gradients are not supported: train LoRA on linear layers"
        )
    settings.inference_mode = True
    return settings


def _check_fit(model: PeftModel, folder: Path) -> None:
    """Compare the adapter file's names and shapes with those the model expects."""
    wanted = {n: t.shape for n, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    runtime = {canonical_name(n): t.shape for n, t in model.state_dict().items()}
    found = tensor_shapes(folder)
    missing = [n for n in wanted if n not in found]
    unknown = [n for n in found if n not in wanted and canonical_name(n) not in runtime]
    shapes = wanted | {n: runtime[canonical_name(n)] for n in found if canonical_name(n) in runtime}
    reshaped = [n for n in found if n in shapes and found[n] != shapes[n]]
    if reshaped:
        name = reshaped[0]
        raise _does_not_fit(
            folder,
            f"{len(reshaped)} tensors differ in shape, first {name}: "
            f"{_shape(found[name])} instead of {_shape(shapes[name])}",
        )
    if missing:
        raise _does_not_fit(folder, f"it lacks {len(missing)} tensors, first {missing[0]}")
    if unknown:
        raise _does_not_fit(folder, f"{len(unknown)} of its tensors have no place in the model, first {unknown[0]}")


def _does_not_fit(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"model.adapter {folder} does not fit model.base: {what}. Give the base model that the adapter was trained on"
    )


def _shape(size: torch.Size) -> str:
    return "x".join(map(str, size))


def _listed(targets: tuple[str, ...] | str | None) -> str:
    return ", ".join(targets) if isinstance(targets, tuple) else str(targets)
