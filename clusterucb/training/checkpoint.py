"""A checkpoint on disk: adapter as peft writes it, Adam moments, tokenizer, and how it was made.

The folder is what `model.adapter` and `model.moments` take, peft's `from_pretrained` and vLLM's LoRA loader too.
Invariants: a folder under its final name is whole; equal trainings leave equal bytes.
"""

# transformers, peft and safetensors are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import json
import os
import shutil
from pathlib import Path

from peft import LoraConfig, PeftModel
from pydantic import ValidationError
from safetensors.torch import save_file
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from clusterucb.checkpoint.moments import save_moments
from clusterucb.errors import ModelError
from clusterucb.run.disk import sync, writing
from clusterucb.training.engine import Trained
from clusterucb.training.record import CheckpointRecord

RECORD = "training.json"
_LOADING = ("local_files_only", "is_local")


def write_checkpoint(
    folder: Path, model: PeftModel, trained: Trained, tokenizer: PreTrainedTokenizerBase, record: CheckpointRecord
) -> None:
    """Write a checkpoint, replacing what stands there."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.writing")
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_adapter(partial, model, trained, record.base)
        save_moments(partial, trained.moments)
        save_tokenizer(tokenizer, partial)
        (partial / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        for file in partial.iterdir():
            sync(file)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer's files, without how it came to be loaded (offline or not), which is nobody else's business."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    kept = {name: value for name, value in written.items() if name not in _LOADING}
    path.write_text(json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(folder: Path) -> CheckpointRecord:
    """Return how a checkpoint was made. Raises ModelError where the folder is none of ours."""
    try:
        return CheckpointRecord.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{folder} has no readable {RECORD}: give a checkpoint that `clusterucb warmup` or `run` wrote"
        ) from error


def _write_adapter(folder: Path, model: PeftModel, trained: Trained, base: str) -> None:
    settings = model.peft_config["default"]
    assert isinstance(settings, LoraConfig)
    tensors = {f"base_model.model.{name}": tensor for name, tensor in trained.adapter.items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    settings.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written |= {"base_model_name_or_path": base, "inference_mode": True}
    if float(written["lora_alpha"]).is_integer():
        written["lora_alpha"] = int(written["lora_alpha"])  # what vLLM declares
    for name, value in written.items():  # peft keeps sets, whose order changes from process to process
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            written[name] = sorted(value)
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
