"""Two processes that hold models together, as ranks of a gloo gang: what a test asks of them runs on both at once."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from typing import Any

import psutil
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.hooks import RemovableHandle

from clusterucb.checkpoint.gathering import HeldBytes
from clusterucb.checkpoint.model import LoadedModel
from clusterucb.checkpoint.ranks import LOOPBACK, Rank, join_gang, open_store
from clusterucb.checkpoint.sharded import load_share
from clusterucb.config import RunConfig
from clusterucb.features.hidden import find_blocks
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.dealing import deal, join
from clusterucb.run.tasks import Answer, Task
from clusterucb.run.worker import Worker

RANKS = 2


class GangOfTwo:
    """Gives both ranks their parts."""

    def __init__(self, processes: Sequence[ProcessPoolExecutor]) -> None:
        self._processes = processes

    def load(self, name: str, config: RunConfig) -> None:
        """Load a model, each rank its share."""
        self.each(_load, (name, config))

    def work(self, name: str, task: Task, bank: TargetBank | None = None) -> Answer:
        """Answer a task together."""
        return join(task, self.each(_work, *((name, part, bank) for part in deal(task, RANKS))))

    def held(self, name: str) -> list[HeldBytes]:
        """Ask each rank for the weights it holds."""
        return self.each(_held, (name,))

    def each(self, function: Callable, *arguments: tuple) -> list[Any]:
        """Call a function on both ranks at once, with the same arguments or each with its own."""
        given = arguments if len(arguments) == RANKS else arguments * RANKS
        futures = [process.submit(function, *own) for process, own in zip(self._processes, given, strict=True)]
        return [future.result() for future in futures]


@contextmanager
def gang_of_two() -> Iterator[GangOfTwo]:
    """Start the ranks and let them meet."""
    store = open_store(LOOPBACK)
    with ExitStack() as stack:
        spawn = get_context("spawn")
        gang = GangOfTwo([stack.enter_context(ProcessPoolExecutor(1, spawn)) for _ in range(RANKS)])
        gang.each(_join, *((Rank(rank, RANKS, LOOPBACK, store.port),) for rank in range(RANKS)))
        yield gang


# --- what runs in a rank's process ------------------------------------------------------------------------------

_workers: dict[str, Worker] = {}
_models: dict[str, nn.Module] = {}
_handles: list[RemovableHandle] = []
_gathered: list[StorageWeakRef] = []
_kept: list[int] = []


def watch_blocks(name: str) -> None:
    """From now on, take note of the weights that blocks gather, and of those left when the forward pass ends."""

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        weights = (weight for path, weight in module.named_parameters() if ".lora_" not in path)
        _gathered.extend(StorageWeakRef(weight.untyped_storage()) for weight in weights)

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        _kept.append(sum(not weight.expired() for weight in _gathered))

    for block in _blocks(name):
        _handles.append(block.register_forward_pre_hook(note))
    _handles.append(_base(name).get_output_embeddings().register_forward_pre_hook(count))


def blocks_kept() -> tuple[int, int]:
    """Say how many weights were left at the end of the forward pass, of how many."""
    kept, seen = _kept.pop(), len(_gathered)
    recover()
    return kept, seen


def run_short(name: str, rank: int, where: str) -> None:
    """From now on, let rank 1 run out of memory in its last block for several rows, or for one long row."""

    def refuse(rows: int, tokens: int) -> None:
        if rank == 1 and (rows > 1 or tokens > 30):
            raise torch.OutOfMemoryError("as if")

    def forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        refuse(*inputs[0].shape[:2])

    def backward(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(lambda gradient: refuse(*gradient.shape[:2]))

    block = _blocks(name)[-1]
    hook = block.register_forward_pre_hook(forward) if where == "forward" else block.register_forward_hook(backward)
    _handles.append(hook)


def listening() -> set[str]:
    """Return the addresses on which this rank listens."""
    connections = psutil.Process().net_connections(kind="inet")
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


def recover() -> None:
    """Take all hooks off."""
    while _handles:
        _handles.pop().remove()
    _gathered.clear()


def _join(rank: Rank) -> None:
    torch.set_num_threads(1)
    join_gang(rank, torch.device("cpu"), timeout_s=60)


def _load(name: str, config: RunConfig) -> None:
    def load(*arguments: Any) -> LoadedModel:
        loaded = load_share(*arguments)
        _models[name] = loaded.model
        return loaded

    _workers[name] = Worker(config, torch.device("cpu"), load)


def _work(name: str, task: Task, bank: TargetBank | None) -> Answer:
    def bring() -> TargetBank:
        assert bank is not None
        return bank

    return _workers[name].work(task, bring)


def _held(name: str) -> HeldBytes | None:
    return _workers[name].held


def _base(name: str) -> nn.Module:
    model = _models[name]
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _blocks(name: str) -> nn.ModuleList:
    return find_blocks(_base(name))
