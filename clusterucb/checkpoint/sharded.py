"""Load a model so that every rank of a gang holds its share of the base weights: DeepSpeed's ZeRO-3 partitioning.

Every rank builds the model module by module and keeps 1/n of each weight; rank 0 reads the files through the page
cache and the others receive their shares, so that nobody holds the whole model. Adapters stay whole on each rank: they
are small, and their gradients are what is taken. What happens to the shares afterwards is `gathering`'s business.
This, `training.zero` and `checkpoint.deepspeed_rank` are the files that import DeepSpeed.
"""

# DeepSpeed and transformers' integration of it are typed only in part.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false, reportAttributeAccessIssue=false

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import distributed
from transformers.integrations.deepspeed import HfDeepSpeedConfig

from clusterucb.checkpoint.deepspeed_rank import deepspeed_on
from clusterucb.checkpoint.gathering import GatheredWeights, Share
from clusterucb.checkpoint.model import LoadedModel, Modules, Sharding, check_finite, load_model
from clusterucb.config import Model
from clusterucb.errors import ModelError

_GIB = 2**30


def load_share(config: Model, device: torch.device, seed: int, modules: Modules) -> LoadedModel:
    """Load this rank's share, as `load_model` loads the whole; the gang must have been joined."""
    loaded = load_model(config, device, seed, modules, sharding(device))
    shares = {
        parameter: Share(parameter.ds_tensor, torch.Size(parameter.ds_shape))
        for parameter in loaded.model.parameters()
        if hasattr(parameter, "ds_tensor")
    }
    if not shares:
        raise ModelError(
            f"model.base {config.base} cannot be cut into shares (is it quantised?): give the unquantised weights, "
            "or set workers.shards to 1"
        )
    weights = GatheredWeights(loaded.model, shares)
    check_finite((name, weights.own(parameter)) for name, parameter in loaded.model.named_parameters())
    held = weights.held(loaded.model)
    note = (
        f"model: {held.whole / _GIB:.2f} GiB of base weights lie on {distributed.get_world_size()} ranks, "
        f"{held.held / _GIB:.2f} GiB on this one"
    )
    return replace(loaded, notes=(*loaded.notes, note), shared=weights)


def sharding(device: torch.device) -> Sharding:
    """Return what opens the context in which ranks load shares of a model."""
    deepspeed_on(device)

    @contextmanager
    def shares(dtype: torch.dtype) -> Generator[None]:
        settings = HfDeepSpeedConfig(
            {
                "train_micro_batch_size_per_gpu": 1,
                "bf16": {"enabled": dtype == torch.bfloat16},
                "zero_optimization": {"stage": 3, "memory_efficient_linear": False},
            }
        )
        yield
        del settings  # transformers shards while this is alive

    return shares
