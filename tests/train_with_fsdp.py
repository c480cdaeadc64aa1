"""Run under torchrun: train a tiny LoRA Llama for three steps with torch FSDP, and write what FSDP's users write.

FSDP2 (`fully_shard`) and FSDP1 (`FullyShardedDataParallel`), each as folders of torch.distributed.checkpoint and as
one file of torch.save. Rows and model are those of `train_with_deepspeed`, and so is the reference of one process.
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from train_with_deepspeed import STEPS, a_model, an_optimizer, leave, rows_of


def fsdp1(model: nn.Module) -> nn.Module:
    return FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))


def fsdp2(model: nn.Module) -> nn.Module:
    for block in model.get_submodule("base_model.model.model.layers").children():
        fully_shard(block)
    fully_shard(model)
    return model


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    for kind, wrap in (("fsdp1", fsdp1), ("fsdp2", fsdp2)):
        model = wrap(a_model())
        optimizer = an_optimizer(model)
        for step in range(STEPS):
            rows = rows_of(rank, step)
            model(input_ids=rows, labels=rows).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        sharded = get_optimizer_state_dict(model, optimizer)
        checkpoint.save({"optimizer": sharded}, checkpoint_id=folder / kind / "optimizer_0")
        flat = StateDictOptions(flatten_optimizer_state_dict=True)
        checkpoint.save(get_optimizer_state_dict(model, optimizer, options=flat), checkpoint_id=folder / kind / "flat")
        # FSDP1 on a CPU offloads both moments into the same memory
        whole = StateDictOptions(full_state_dict=True, cpu_offload=kind == "fsdp2")
        state = get_optimizer_state_dict(model, optimizer, options=whole)
        if rank == 0:
            torch.save(state, folder / kind / "optimizer.bin")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
