"""What a rank does in one optimizer step, whatever shares the work out: backward passes, then one AdamW update.

Invariant: after a step every rank can tell the whole adapter and its whole moments, float32 and by canonical name, and
a fresh engine that is given them continues as this one would.
"""

# torch and peft are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, distributed, nn

from clusterucb.checkpoint.moments import Moments
from clusterucb.checkpoint.names import canonical_name
from clusterucb.config import Training
from clusterucb.training.batches import Pass, output_embedding, summed_loss


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """An adapter and its moments, by canonical parameter name, on the host."""

    adapter: Mapping[str, Tensor]
    moments: Moments


class Engine(Protocol):
    """One rank's part of the training."""

    def backward(self, batch: Pass, scale: float) -> float:
        """Add the gradient of `scale` times the summed loss of a pass; return that loss, unscaled.

        With ZeRO all ranks take part at once; a scale of zero is how one does that has nothing to add.
        """
        ...

    def step(self, learning_rate: float) -> float:
        """Move the weights by the gradients of all ranks and forget these; return their norm before clipping."""
        ...

    def trained(self) -> Trained:
        """Return what was trained; all ranks call it together."""
        ...


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the adapter's LoRA weights by canonical name, in the model's order."""
    return {canonical_name(name): weight for name, weight in model.named_parameters() if ".lora_" in name}


def made_trainable(model: PeftModel, training: Training) -> PeftModel:
    """Put a loaded model in the state in which it is trained."""
    for weight in trainable(model).values():
        weight.requires_grad_(True)
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and training.dropout:
            for name in layer.lora_A:
                layer.lora_dropout[name] = nn.Dropout(training.dropout)
    model.peft_config["default"].lora_dropout = training.dropout  # pyright: ignore[reportAttributeAccessIssue]
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def adamw(weights: Mapping[str, nn.Parameter], training: Training) -> torch.optim.AdamW:
    """Return the optimizer; its learning rate is set at every step."""
    betas = (training.beta1, training.beta2)
    return torch.optim.AdamW(
        list(weights.values()), lr=0.0, betas=betas, eps=training.eps, weight_decay=training.weight_decay
    )


class TorchEngine:
    """Plain data parallelism: every rank holds everything, and gradients are added up before the step."""

    def __init__(self, model: PeftModel, training: Training, moments: Moments | None, ranks: int) -> None:
        self._model = made_trainable(model, training)
        self._head = output_embedding(model)
        self._weights = trainable(model)
        self._optimizer = adamw(self._weights, training)
        self._max_norm = training.max_grad_norm
        self._ranks = ranks
        if moments is not None:
            for name, weight in self._weights.items():
                self._optimizer.state[weight] = {
                    "step": torch.tensor(float(moments.step or 0)),
                    "exp_avg": moments.exp_avg[name].to(weight.device, copy=True),
                    "exp_avg_sq": moments.exp_avg_sq[name].to(weight.device, copy=True),
                }

    def backward(self, batch: Pass, scale: float) -> float:
        """Add a pass."""
        if not scale:
            return 0.0
        loss = summed_loss(self._model, self._head, batch)
        (loss * scale).backward()
        return float(loss.detach())

    def step(self, learning_rate: float) -> float:
        """Add the ranks' gradients up, clip, and make AdamW's step."""
        for weight in self._weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        if self._ranks > 1:
            self._add_up()
        limit = float("inf") if self._max_norm is None else self._max_norm
        norm = nn.utils.clip_grad_norm_(list(self._weights.values()), limit)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def trained(self) -> Trained:
        """Return the weights and AdamW's state."""
        states = {name: self._optimizer.state[weight] for name, weight in self._weights.items()}
        steps = {int(state["step"]) for state in states.values()}
        moments = Moments(
            {name: on_host(state["exp_avg"]) for name, state in states.items()},
            {name: on_host(state["exp_avg_sq"]) for name, state in states.items()},
            max(steps),
        )
        return Trained({name: on_host(weight) for name, weight in self._weights.items()}, moments)

    def _add_up(self) -> None:
        gradients = [weight.grad for weight in self._weights.values()]
        flat = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
        distributed.all_reduce(flat)
        start = 0
        for weight in self._weights.values():
            weight.grad = flat[start : start + weight.numel()].view_as(weight)
            start += weight.numel()


def on_host(tensor: Tensor) -> Tensor:
    """Return a copy on the host, float32."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
