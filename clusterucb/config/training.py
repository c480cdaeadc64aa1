"""How an adapter is trained: the optimizer, its schedule, and what one step sees."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clusterucb.config.section import Section, Share


class Training(Section):
    """LoRA fine-tuning with AdamW: of the warm-up, and of every period of `run`."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """At the top of the schedule."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls to zero after its warm-up. It spans all periods of a `run`."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps over which the rate rises."""
    batch_size: int = Field(default=128, ge=1)
    """Samples an optimizer step, over all ranks and however many passes that takes."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Tokens in one forward and backward pass, padding included; a step has as many passes as its samples need."""
    packing: bool = False
    """Lay the samples of a pass end to end in one row, each seeing itself alone, instead of padding them."""
    group_by_length: bool = False
    """Let samples of like length share a step. Fewer padded tokens, but a step's samples are no longer drawn alike."""
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm; null leaves them."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Before LoRA-A. With it the passes of a step draw from streams of their own."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    zero: Literal[0, 1, 2, 3] = 0
    """What ranks share out: nothing (plain data parallelism), Adam's state, gradients too, base weights too (DeepSpeed
    ZeRO)."""
    ranks: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Processes that train together, a device each. `auto`: one a GPU of the cluster, else one. Which ranks there are
    settles in what order gradients are added, and with it the last bits."""
    save_every: int = Field(default=50, ge=1)
    """Steps after which a training can be taken up again."""


class Warmup(Section):
    """The training that `warmup` does, and `run` begins with: on a random part of the pool."""

    share: Share = 0.05
    """Part of the usable pool it sees."""
    epochs: int = Field(default=1, ge=1)
    """Passes over that part."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps, in place of `epochs`."""
    checkpoints: int = Field(default=1, ge=1)
    """Checkpoints that are kept on the way, evenly spaced, the last one at the end. LESS has one an epoch."""

    @model_validator(mode="after")
    def _enough_steps(self) -> "Warmup":
        if self.steps is not None and self.checkpoints > self.steps:
            raise ValueError(
                f"warmup.checkpoints is {self.checkpoints} and warmup.steps {self.steps}: keep at most one a step"
            )
        return self
