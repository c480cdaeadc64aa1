"""What it costs to hold the model in shares: a gang of ranks next to a worker that holds it alone.

    CLUSTERUCB_MATERIAL=... python benchmarks/gang.py [--samples 16] [--rounds 3] [--ranks 2]

Both score the same samples of the real pool with the same model (SmolLM2-135M-Instruct, LoRA on q, k, v, o), as Ray
actors with one thread a process, in turn; a round runs every arm once. A gang gathers every weight twice a
micro-batch, whatever its size: so each arm runs with two sizes. Ratios are of CPU time over all of an arm's processes
and of process time, that is ranks x wall time, for a sample: what a device is held for. Other work on the machine
disturbs wall time most.
"""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))

# Ray reads its environment when it is imported.
import numpy as np
import psutil
import ray
from real_setting import Setting, arguments, batches, load

from actors.gang import Gang
from actors.gradient_worker import GradientActor
from actors.resources import WorkerSize
from clusterucb.gradients.targets import combine
from clusterucb.run.tasks import ScoreTask, TargetTask, Task
from clusterucb.settings import build_config


@dataclass(frozen=True)
class Spent:
    """Seconds for one sample."""

    wall: float
    cpu: float


def main() -> None:
    """Run the arms and print the table."""
    parser = arguments(__doc__ or "")
    parser.set_defaults(samples=16, max_length=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    setting = load(options, targets=4)
    lora = {"r": options.rank, "alpha": 2 * options.rank, "init_b": "gaussian"}
    config = build_config(
        {"pool": {"path": "-"}, "target": {"path": "-"}, "model": {"base": options.model, "lora": lora}}, ()
    ).model_dump_json()
    ray.init(
        "local",
        num_cpus=options.ranks + 1,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    size = WorkerSize(num_gpus=0.0, num_cpus=1.0, memory=0, shards=options.ranks)
    gang = Gang(config, options.threads, size)
    alone: Any = GradientActor.options(num_cpus=1).remote(config, options.threads)
    fronts = {"alone": alone, f"gang of {options.ranks}": gang.front}
    for name, front in fronts.items():
        for note in ray.get(front.load.remote()).notes:
            print(f"{name}: {note}")
    try:
        _compare(fronts, setting, [options.batch_tokens // 2, 2 * options.batch_tokens], options.rounds, options.ranks)
    finally:
        gang.end()
        ray.shutdown()


def _compare(fronts: dict[str, Any], setting: Setting, sizes: list[int], rounds: int, ranks: int) -> None:
    bank = combine(["target"], [ray.get(fronts["alone"].work.remote(TargetTask(setting.target, "target"), []))])
    reference = [ray.put(bank)]
    spent: dict[tuple[int, str], list[Spent]] = {(size, name): [] for size in sizes for name in fronts}
    influences: dict[tuple[int, str], np.ndarray] = {}
    for index in range(rounds + 1):
        for size in sizes:
            tasks = [ScoreTask(batch, bank.fingerprint) for batch in batches(setting.pool, size)]
            for name, front in fronts.items():
                influence, one = _run(lambda task, front=front: front.work.remote(task, reference), tasks)
                influences[size, name] = influence
                if index:  # the first round warms up
                    spent[size, name].append(one)
    print(f"{len(setting.pool)} samples, {int(setting.pool.offsets[-1])} tokens, {rounds} rounds")
    print(
        f"{'batch tokens':>12}  {'arm':12}{'wall s':>9}{'CPU s':>9}{'process time':>15}{'CPU time':>11}"
        f"{'difference':>13}"
    )
    for size in sizes:
        own = spent[size, "alone"]
        for name in fronts:
            processes = 1 if name == "alone" else ranks
            wall = [processes * one.wall / base.wall for one, base in zip(spent[size, name], own, strict=True)]
            cpu = [one.cpu / base.cpu for one, base in zip(spent[size, name], own, strict=True)]
            difference = np.abs(influences[size, name] - influences[size, "alone"]).max()
            print(
                f"{size:>12}  {name:12}{np.median([one.wall for one in spent[size, name]]):>9.3f}"
                f"{np.median([one.cpu for one in spent[size, name]]):>9.3f}{np.median(wall):>14.2f}x"
                f"{np.median(cpu):>10.2f}x{difference:>13.1e}"
            )


def _run(ask: Callable[[Task], Any], tasks: list[ScoreTask]) -> tuple[np.ndarray, Spent]:
    """Score all; return the influences by sample, and what one sample took."""
    before, start = _cpu_seconds(), time.perf_counter()
    answers = [ray.get(ask(task)) for task in tasks]
    wall, cpu = time.perf_counter() - start, _cpu_seconds() - before
    samples_B = np.concatenate([answer.samples_B for answer in answers])
    influence_BS = np.concatenate([answer.influence_BS for answer in answers])
    return influence_BS[np.argsort(samples_B)], Spent(wall / len(samples_B), cpu / len(samples_B))


def _cpu_seconds() -> float:
    """Return the CPU time of all workers, ranks and fronts so far; those not asked use none."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        if any(name in " ".join(process.cmdline()) for name in ("GradientWorker", "GangRank", "GangFront")):
            times = process.cpu_times()
            total += times.user + times.system
    return total


if __name__ == "__main__":
    main()
