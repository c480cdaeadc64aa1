"""Faults from inside a process, for the chaos harnesses: Python imports this file where its folder is on the path.

Nothing of the program knows of it. In a worker every sample whose gradient is taken is noted in a file of the process
(CHAOS_NOTES), takes CHAOS_SECONDS, and ends the process at once where it is poison (CHAOS_POISON, sample numbers).
CHAOS_PAUSE seconds pass in the middle of what is otherwise over too soon to strike at: the answer to a task, an
optimizer step, before clusters are kept, and before what ends a loop gets its final name.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, infect: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._infect = infect

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._infect(module)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, infect: Callable[[ModuleType], None]) -> None:
        self._name = name
        self._infect = infect

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Loader(spec.loader, self._infect)
        return spec


def _pause() -> None:
    time.sleep(float(os.environ.get("CHAOS_PAUSE", "0")))


def _worker(module: ModuleType) -> None:
    poison = {int(sample) for sample in os.environ.get("CHAOS_POISON", "").split(",") if sample}
    seconds = float(os.environ.get("CHAOS_SECONDS", "0"))
    work = module.Worker.work

    def infected(self: object, task: object, bank: object) -> object:
        if isinstance(task, module.ScoreTask):
            samples = task.batch.samples_B.tolist()
            if poison.intersection(samples):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(seconds)
            with open(os.path.join(os.environ["CHAOS_NOTES"], str(os.getpid())), "a") as notes:
                notes.write("".join(f"{sample}\n" for sample in samples))
        _pause()
        return work(self, task, bank)

    module.Worker.work = infected


def _trainer(module: ModuleType) -> None:
    step = module._Run.step

    def infected(self: object) -> object:
        _pause()
        return step(self)

    module._Run.step = infected


def _pipeline(module: ModuleType) -> None:
    save = module.save_clusters

    def infected(clusters: object, folder: object) -> None:
        _pause()
        save(clusters, folder)

    module.save_clusters = infected


def _ending(module: ModuleType) -> None:
    whole = module._whole

    @contextmanager
    def infected(folder: Path) -> Generator[Path]:
        with whole(folder) as partial:
            yield partial
            _pause()

    module._whole = infected


if "CHAOS_NOTES" in os.environ:
    sys.meta_path[:0] = [
        _Finder("clusterucb.run.worker", _worker),
        _Finder("clusterucb.training.trainer", _trainer),
        _Finder("clusterucb.run.pipeline", _pipeline),
        _Finder("clusterucb.loop.ending", _ending),
    ]
