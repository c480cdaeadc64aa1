"""Run under torchrun: train a tiny LoRA Llama for three steps with ZeRO 1, 2 and 3, and write what DeepSpeed writes.

Each rank has its own rows; the parameters lie in two groups with and without weight decay, as trainers do. `reference`
trains the same without DeepSpeed, on the mean of the ranks' losses.
"""

import os
import sys
from pathlib import Path
from typing import NoReturn

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import tiny_llama
from torch import distributed

STEPS = 3
RANKS = 2


def a_model() -> PeftModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = get_peft_model(tiny_llama(), LoraConfig(r=3, target_modules=["q_proj", "v_proj"]))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def an_optimizer(model: torch.nn.Module) -> torch.optim.AdamW:
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decayed = {"params": [p for name, p in trained if "q_proj" in name], "weight_decay": 0.1}
    others = {"params": [p for name, p in trained if "q_proj" not in name], "weight_decay": 0.0}
    return torch.optim.AdamW([decayed, others], lr=1e-3)


def rows_of(rank: int, step: int) -> torch.Tensor:
    return torch.randint(0, 90, (2, 12), generator=torch.Generator().manual_seed(10 * rank + step))


def reference() -> dict[str, dict[str, torch.Tensor]]:
    """Return Adam's state by parameter name after the same training in one process."""
    model = a_model()
    optimizer = an_optimizer(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        for rank in range(RANKS):
            rows = rows_of(rank, step)
            (model(input_ids=rows, labels=rows).loss / RANKS).backward()
        optimizer.step()
    return {name: optimizer.state[p] for name, p in model.named_parameters() if p.requires_grad}


def leave() -> NoReturn:
    """End this rank once all are done, without the interpreter's own end.

    Threads of gloo outlive their group where something still holds it, and then abort in the midst of that end
    (pytorch/pytorch#190489).
    """
    distributed.barrier()
    distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main(folder: Path) -> None:
    import deepspeed

    # Compiled at first use under a lock file that a killed process leaves behind for all who come after it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    for stage in (1, 2, 3):
        model = a_model()
        settings = {
            "train_micro_batch_size_per_gpu": 2,
            "gradient_clipping": 0.0,  # the default is 1.0
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        engine, *_ = deepspeed.initialize(model=model, optimizer=an_optimizer(model), config=settings)
        for step in range(STEPS):
            rows = rows_of(int(os.environ["RANK"]), step)
            engine.backward(engine(input_ids=rows, labels=rows).loss)
            engine.step()
        engine.save_checkpoint(str(folder / f"zero{stage}"))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
