"""What a loop leaves: the final adapter, merged into the model on request.

Invariant: a folder under its final name is whole.
"""

# transformers and peft are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel

from clusterucb.checkpoint.model import load_model, load_tokenizer
from clusterucb.config import Model
from clusterucb.run.disk import writing
from clusterucb.training.checkpoint import save_tokenizer


def copy_adapter(checkpoint: Path, folder: Path) -> None:
    """Put a checkpoint where a loop ends, unless it is there."""
    if not folder.exists():
        with _whole(folder) as partial:
            shutil.copytree(checkpoint, partial, dirs_exist_ok=True)


def merge_adapter(model: Model, adapter: Path, folder: Path) -> None:
    """Write base and adapter as one model, with the tokenizer, unless it is there."""
    if folder.exists():
        return
    asked = model.model_copy(update={"adapter": str(adapter), "moments": None})
    loaded = load_model(asked, torch.device("cpu"), 0, "lora").model
    assert isinstance(loaded, PeftModel)
    with _whole(folder) as partial:
        loaded.merge_and_unload().save_pretrained(partial)
        save_tokenizer(load_tokenizer(model), partial)


@contextmanager
def _whole(folder: Path) -> Generator[Path]:
    partial = folder.with_name(f".{folder.name}.writing")
    with writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, folder)
