"""Training with DeepSpeed's ZeRO: ranks share out Adam's state (1), gradients (2) and base weights (3).

DeepSpeed averages over ranks where the loss here is a sum over them, which the scale of a pass makes up for. Every
`step` ends an accumulation, however many passes it had. This, `checkpoint.sharded` and `checkpoint.deepspeed_rank`
are the files that import DeepSpeed.
"""

# DeepSpeed is typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false, reportUnknownParameterType=false

import logging
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from clusterucb.checkpoint.deepspeed_rank import deepspeed_on
from clusterucb.checkpoint.moments import Moments
from clusterucb.config import Training
from clusterucb.training.batches import Pass, output_embedding, summed_loss
from clusterucb.training.engine import Trained, adamw, made_trainable, on_host, trainable

_KINDS = ("exp_avg", "exp_avg_sq")


class ZeroEngine:
    """One rank of a ZeRO training; its process group has been joined."""

    def __init__(
        self, model: PeftModel, training: Training, moments: Moments | None, ranks: int, device: torch.device
    ) -> None:
        deepspeed = deepspeed_on(device)
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        made_trainable(model, training)
        self._head = output_embedding(model)
        self._weights = trainable(model)
        self._ranks = ranks
        self._stage = training.zero
        self._rank = torch.distributed.get_rank()
        optimizer = adamw(self._weights, training)
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "managed_gradient_accumulation": False,
            "gradient_clipping": training.max_grad_norm or 0.0,
            "zero_optimization": {"stage": training.zero, "memory_efficient_linear": False, "overlap_comm": False},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": None,
        }
        self._engine: Any = deepspeed.initialize(
            model=model, optimizer=optimizer, config=settings, dist_init_required=False
        )[0]
        self._begin(moments)

    def backward(self, batch: Pass, scale: float) -> float:
        """Add a pass; all ranks together."""
        loss = summed_loss(self._engine, self._head, batch)
        self._engine.backward(loss * (scale * self._ranks), scale_wrt_gas=False)
        return float(loss.detach()) if scale else 0.0

    def step(self, learning_rate: float) -> float:
        """Make AdamW's step on this rank's share, and bring the shares together."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm() or 0.0)

    def trained(self) -> Trained:
        """Gather the shares of all ranks."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        def gathered(weight: nn.Parameter, kind: str | None) -> Tensor:
            whole = safe_get_full_optimizer_state(weight, kind) if kind else safe_get_full_fp32_param(weight)
            assert whole is not None, "every rank has a share of every weight"
            return on_host(whole).view(self._shape(weight))

        adapter, first, second = (
            {name: gathered(weight, kind) for name, weight in self._weights.items()} for kind in (None, *_KINDS)
        )
        steps = {int(state["step"]) for state in self._inner.state.values()}
        return Trained(adapter, Moments(first, second, max(steps)))

    @property
    def _inner(self) -> torch.optim.Optimizer:
        return self._engine.optimizer.optimizer

    @staticmethod
    def _shape(weight: nn.Parameter) -> torch.Size:
        return torch.Size(getattr(weight, "ds_shape", weight.shape))

    def _begin(self, moments: Moments | None) -> None:
        """Give the optimizer a state: that of a checkpoint, or none so far."""
        for group in self._inner.param_groups:
            for flat in self._flat(group):
                self._inner.state[flat] = {
                    "step": torch.tensor(float(0 if moments is None else moments.step or 0)),
                    **{kind: torch.zeros_like(flat.data) for kind in _KINDS},
                }
        if self._stage < 3:
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()
        if moments is not None:
            for name, weight in self._weights.items():
                self._put(weight, moments.exp_avg[name], "exp_avg")
                self._put(weight, moments.exp_avg_sq[name], "exp_avg_sq")

    def _flat(self, group: dict[str, Any]) -> list[nn.Parameter]:
        """Return the flat shares that the inner optimizer steps on."""
        if self._stage < 3:
            return list(group["params"])
        return list(self._engine.optimizer.fp32_partitioned_groups_flat)

    def _put(self, weight: nn.Parameter, value: Tensor, kind: str) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        value = value.to(self._engine.device)
        if self._stage < 3:
            safe_set_full_optimizer_state(weight, value, kind)
            return
        size = weight.ds_tensor.numel()  # equal on all ranks: the last one's may be filled up
        whole = torch.zeros(size * self._ranks, dtype=value.dtype, device=value.device)
        whole[: value.numel()] = value.flatten()
        safe_set_local_optimizer_state(weight, whole[size * self._rank : size * (self._rank + 1)], kind)
