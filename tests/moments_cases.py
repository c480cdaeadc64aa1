"""A small LoRA model, trained for two steps, and its optimizer's state by name."""

from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_llama
from torch import nn

from clusterucb.checkpoint.names import canonical_name


def lora_llama(targets: tuple[str, ...] = ("q_proj", "v_proj"), r: int = 3) -> nn.Module:
    return get_peft_model(tiny_llama(), LoraConfig(r=r, target_modules=list(targets)))


def sizes(model: nn.Module) -> dict[str, torch.Size]:
    return {canonical_name(n): p.shape for n, p in model.named_parameters() if p.requires_grad}


def trained(model: nn.Module, group: Callable[[str, nn.Parameter], int] = lambda name, parameter: 0):
    """Make two AdamW steps; return the optimizer and its state by canonical name."""
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(group(name, parameter), []).append(parameter)
    optimizer = torch.optim.AdamW([{"params": groups[i]} for i in sorted(groups)], lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        rows = torch.randint(0, 90, (2, 9), generator=generator)
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer, states_by_name(model, optimizer)


def states_by_name(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    return {canonical_name(n): optimizer.state[p] for n, p in model.named_parameters() if p.requires_grad}
