"""DeepSpeed as one rank imports it."""

# DeepSpeed is typed only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportAttributeAccessIssue=false

import os
from types import ModuleType

import torch


def deepspeed_on(device: torch.device) -> ModuleType:
    """Return DeepSpeed, told its device as a launcher would have.

    Its all-reduce in shared memory stays off: it gains little here, and is compiled at first use, under a lock file
    that a killed process leaves behind for all who come after it.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
