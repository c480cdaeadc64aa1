"""How many workers of which size: settled from the configuration and what the cluster has, before any is started."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clusterucb.config import Workers
from clusterucb.errors import ResourceError

_MOST_CPU_WORKERS = 4
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Workers to start, and what each holds in Ray's scheduler."""

    count: int
    num_gpus: float
    num_cpus: float
    memory: int


def plan_workers(wanted: Workers, nodes: Sequence[Mapping[str, float]]) -> WorkerPlan:
    """Fit the wish to the nodes' resources; raise ResourceError at once where it can never be met."""
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    num_gpus = (1.0 if gpus else 0.0) if wanted.num_gpus == "auto" else wanted.num_gpus
    memory = 0 if wanted.memory_gib is None else int(wanted.memory_gib * _GIB)
    room = sum(_fits(node, num_gpus, wanted.num_cpus, memory) for node in nodes)
    limit = room if num_gpus else min(room, _MOST_CPU_WORKERS)
    count = limit if wanted.count == "auto" else wanted.count
    if count < 1 or count > room:
        size = f"{wanted.num_cpus:g} CPU, {num_gpus:g} GPU" + (f", {wanted.memory_gib:g} GiB" if memory else "")
        has = "; ".join(
            f"node {i}: {node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU, {node.get('memory', 0) / _GIB:.1f} GiB"
            for i, node in enumerate(nodes)
        )
        raise ResourceError(
            f"{max(count, 1)} workers of {size} each do not fit: the cluster has room for {room} ({has}). "
            f"Lower workers.count, workers.num_cpus, workers.num_gpus or workers.memory_gib"
        )
    return WorkerPlan(count, num_gpus, wanted.num_cpus, memory)


def _fits(node: Mapping[str, float], num_gpus: float, num_cpus: float, memory: int) -> int:
    """Return how many workers one node carries."""
    asked = {"GPU": num_gpus, "CPU": num_cpus, "memory": float(memory)}
    limits = [int(node.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items() if amount]
    return min(limits) if limits else _MOST_CPU_WORKERS
