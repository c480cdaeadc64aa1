"""Where gradients are computed; changes nothing in the result."""

from typing import Literal

from pydantic import Field, model_validator

from clusterucb.config.section import Section


class Workers(Section):
    """Where gradients are computed, and what happens when a part of that dies. Changes nothing in the result."""

    count: int | Literal["auto"] = "auto"
    """`auto`: one a GPU where the cluster has any, else one a CPU core, four at most; it follows the cluster as nodes
    come and go."""
    room: Literal["now", "later"] = "now"
    """`now` refuses a count that the cluster cannot hold; `later` starts with what fits and waits for nodes to come, as
    an autoscaler brings them."""
    num_gpus: float | Literal["auto"] = "auto"
    """GPUs a worker holds; fractions share one. `auto`: 1 where the cluster has GPUs, else 0."""
    num_cpus: float = Field(default=1.0, ge=0)
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory a worker reserves in Ray's scheduler."""
    shards: int = Field(default=1, ge=1)
    """Ranks that hold one model together (DeepSpeed ZeRO-3), for models larger than a GPU; they share every
    micro-batch. `num_gpus`, `num_cpus` and `memory_gib` are then each rank's. Part of what settles the last bits."""
    in_flight: int = Field(default=2, ge=1)
    """Micro-batches sent to a worker ahead of its answers."""
    attempts: int = Field(default=3, ge=1)
    """Worker deaths that put a micro-batch under suspicion, and deaths with nothing else in hand that exclude a
    sample."""
    deaths: int = Field(default=5, ge=1)
    """Deaths in a row, without an answer in between, after which a worker is not started again."""
    heartbeat_timeout_s: float = Field(default=60.0, gt=0)
    """A worker process that has not answered for so long is replaced."""
    deadline_factor: float = Field(default=20.0, gt=1)
    """A micro-batch may take this many times what its tokens took so far; then its worker is replaced."""
    deadline_min_s: float = Field(default=120.0, gt=0)
    """Seconds that every micro-batch may take at least."""
    on_driver_death: Literal["continue", "stop"] = "continue"
    """Whether a run on a cluster goes on when the process that started it is gone; `stop` leaves it to be resumed."""
    ready_timeout_s: float = Field(default=900.0, gt=0)
    """Seconds within which the first worker has to be ready."""

    @model_validator(mode="after")
    def _ranks_have_devices_of_their_own(self) -> "Workers":
        if self.shards > 1 and self.num_gpus not in ("auto", 0.0, 1.0):
            raise ValueError(
                f"workers.num_gpus is {self.num_gpus:g} and workers.shards {self.shards}: each rank of a gang works on "
                f"one device, so give 1, 0 or auto"
            )
        return self
