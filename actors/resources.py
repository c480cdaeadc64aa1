"""How many workers of which size: settled from the configuration and what the cluster has, before any is started.

The size of a worker is settled once a run; how many there is room for follows the cluster.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clusterucb.config import Workers
from clusterucb.errors import ResourceError

_MOST_ON_A_CPU_NODE = 4
_GIB = 2**30

Nodes = Sequence[Mapping[str, float]]
"""Resources of every living node, in Ray's names and units."""


@dataclass(frozen=True, slots=True)
class WorkerSize:
    """What each rank of a worker holds in Ray's scheduler, and how many ranks make one."""

    num_gpus: float
    num_cpus: float
    memory: int
    shards: int = 1

    def __str__(self) -> str:
        memory = f", {self.memory / _GIB:g} GiB" if self.memory else ""
        ranks = "" if self.shards == 1 else f"{self.shards} ranks of "
        return f"{ranks}{self.num_cpus:g} CPU, {self.num_gpus:g} GPU{memory}"


def worker_size(wanted: Workers, nodes: Nodes) -> WorkerSize:
    """Settle what a worker holds: a GPU where the cluster has any, unless told otherwise."""
    gpus = sum(node.get("GPU", 0.0) for node in nodes)
    num_gpus = (1.0 if gpus else 0.0) if wanted.num_gpus == "auto" else wanted.num_gpus
    memory = 0 if wanted.memory_gib is None else int(wanted.memory_gib * _GIB)
    return WorkerSize(num_gpus, wanted.num_cpus, memory, wanted.shards)


def worker_count(wanted: Workers, size: WorkerSize, nodes: Nodes) -> int:
    """Return how many workers to keep: the number asked for, or what the living nodes carry (never less than one)."""
    if wanted.count != "auto":
        return wanted.count
    most = None if size.num_gpus else _MOST_ON_A_CPU_NODE
    return max(1, room_for(size, nodes, most))


def check_room(wanted: Workers, size: WorkerSize, nodes: Nodes) -> None:
    """Raise ResourceError where the cluster, were it idle, has no room for what is asked, unless it may come later."""
    if wanted.room == "later":
        return
    room = room_for(size, nodes)
    asked = 1 if wanted.count == "auto" else wanted.count
    if asked > room:
        raise ResourceError(
            f"{asked} workers of {size} each do not fit: the cluster has room for {room} ({describe(nodes)}). "
            f"Lower workers.count, workers.num_cpus, workers.num_gpus or workers.memory_gib, or wait for nodes with "
            f"workers.room=later"
        )


def describe(nodes: Nodes) -> str:
    """Return what the nodes have, in words."""
    if not nodes:
        return "no living node"
    return "; ".join(
        f"node {i}: {node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU, {node.get('memory', 0) / _GIB:.1f} GiB"
        for i, node in enumerate(nodes)
    )


def room_for(size: WorkerSize, nodes: Nodes, most_on_a_node: int | None = None) -> int:
    """Return how many workers the nodes carry; the ranks of one may lie on several nodes."""
    asked = {"GPU": size.num_gpus, "CPU": size.num_cpus, "memory": float(size.memory)}
    ranks = 0
    for node in nodes:
        limits = [int(node.get(name, 0.0) / amount + 1e-9) for name, amount in asked.items() if amount]
        here = min(limits, default=_MOST_ON_A_CPU_NODE)
        ranks += here if most_on_a_node is None else min(here, most_on_a_node * size.shards)
    return ranks // size.shards
