"""One model, judged with one adapter after another: base weights are loaded once."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from pathlib import Path

import torch
from safetensors.torch import load_file

from clusterucb.checkpoint.names import canonical_name
from clusterucb.errors import ModelError
from clusterucb.training.engine import trainable


@torch.no_grad()
def put_adapter(model: torch.nn.Module, checkpoint: Path) -> None:
    """Give a loaded model the LoRA weights of a checkpoint of ours; raises ModelError where they do not fit."""
    weights = trainable(model)
    tensors = {
        canonical_name(name): tensor for name, tensor in load_file(checkpoint / "adapter_model.safetensors").items()
    }
    if odd := sorted(weights.keys() ^ tensors.keys()):
        raise ModelError(f"the adapter of {checkpoint} and the model differ in {len(odd)} weights, first {odd[0]}")
    for name, weight in weights.items():
        weight.copy_(tensors[name])
