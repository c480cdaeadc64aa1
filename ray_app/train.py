"""The driver of a training: prepare, connect, let the ranks train, show their events.

Gradient workers and training ranks take the cluster in turn: a selection's coordinator and workers are gone when its
driver returns, and the ranks when `fit` does, so that one GPU, or two CPUs, do for both.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from actors.pool import living_nodes
from actors.resources import Nodes, check_room, worker_size
from actors.training import TrainingPlan, fit
from clusterucb.config import RunConfig
from clusterucb.errors import RunFolderError
from clusterucb.run.events import Emit, Note
from clusterucb.run.lease import Lease
from clusterucb.run.run_folder import RunFolder
from clusterucb.training.preparation import prepare_warmup
from clusterucb.training.stretch import Stretch
from clusterucb.training.summary import TrainingSummary, read_training_summary, summarise_training
from ray_app.cluster import connected
from ray_app.select import stoppable
from ray_app.status import EventReader
from ray_app.views import View

_LEASE_S = 30.0
_POLL_S = 0.25


def warmup(config: RunConfig, folder: RunFolder, address: str, view: View) -> TrainingSummary:
    """Train on a random part of the pool, in `folder`; a finished folder answers at once."""
    if folder.finished:
        folder.start(config, "warmup")  # refuses other settings
        return read_training_summary(folder.summary_file)
    with view, stoppable() as stop:
        prepared = prepare_warmup(config, folder, view.reading)
        for note in prepared.notes:
            view(Note(text=note))
        with connected(address):
            return train_in(folder, prepared.stretch, config, view, stop)


def train_in(
    folder: RunFolder, stretch: Stretch, config: RunConfig, emit: Emit, stop: threading.Event
) -> TrainingSummary:
    """Train the stretch that stands in `folder`, on the cluster that this process is connected to."""
    if not (folder.path / "checkpoint").exists():
        with keeping(folder, "training"):
            folder.clear_cancel()
            _fit_watched(folder, _plan(folder, config, living_nodes()), emit, stop)
    return summarise_training(stretch, folder)


def _plan(folder: RunFolder, config: RunConfig, nodes: Nodes) -> TrainingPlan:
    wanted = config.workers.model_copy(update={"shards": 1})
    size = worker_size(wanted, nodes)
    gpus = int(sum(node.get("GPU", 0.0) for node in nodes)) if size.num_gpus else 0
    ranks = max(1, gpus) if config.training.ranks == "auto" else config.training.ranks
    if size.num_gpus:
        wanted = wanted.model_copy(update={"num_gpus": 1.0})  # ranks share no device
        size = worker_size(wanted, nodes)
    check_room(wanted.model_copy(update={"count": ranks}), size, nodes)
    return TrainingPlan(folder.location, ranks, size, max(1, int(size.num_cpus)))


def _fit_watched(folder: RunFolder, plan: TrainingPlan, emit: Emit, stop: threading.Event) -> None:
    """Let Ray Train work on a thread of its own, and show what the ranks write meanwhile."""
    news = EventReader(folder)
    news()  # what an earlier driver has shown
    with ThreadPoolExecutor(1) as beside:
        working = beside.submit(fit, plan)
        asked = False
        while True:
            over = working.done()
            if stop.wait(0 if over else _POLL_S) and not asked:
                folder.request_cancel()
                asked = True
            for event in news():
                emit(event)
            if over:
                return working.result()


@contextmanager
def keeping(folder: RunFolder, owner: str) -> Iterator[None]:
    """Be the one who writes a folder, for as long as this lasts."""
    folder.state.mkdir(parents=True, exist_ok=True)
    lease, over = Lease.acquire(folder, owner, _LEASE_S), threading.Event()

    def keep() -> None:
        while not over.wait(_LEASE_S / 3):
            lease.renew()

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        if lease.held:
            lease.release()


def print_training(summary: TrainingSummary, folder: RunFolder, console: Console) -> None:
    """Print what a training leaves, and how to use it."""
    checkpoint = Path(folder.path) / "checkpoint"
    console.print(
        f"trained {summary.steps} steps on {summary.samples} samples ({summary.tokens:,} tokens) with {summary.ranks} "
        f"rank{'s' if summary.ranks > 1 else ''}: loss {summary.first_loss:.4f} at the first step, "
        f"{summary.last_loss:.4f} at the last\n"
        f"go on with --set model.adapter={checkpoint} --set model.moments={checkpoint}",
        highlight=False,
        soft_wrap=True,
    )
    if len(summary.checkpoints) > 1:
        console.print(f"checkpoints in {folder.location}: {', '.join(summary.checkpoints)}", highlight=False)
    if not (folder.path / "checkpoint").exists():
        raise RunFolderError(f"{folder.location} has lost its checkpoint: give another folder with --out")
