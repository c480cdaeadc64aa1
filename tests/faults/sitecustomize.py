"""Faults from inside a worker process, for the chaos harness: Python imports this file where its folder is on the path.

Nothing of the program knows of it. Once `clusterucb.run.worker` is imported, every sample whose gradient is taken is
noted in a file of the process (CHAOS_NOTES), takes CHAOS_SECONDS, and ends the process at once where it is poison
(CHAOS_POISON, sample numbers).
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import ModuleType

_TARGET = "clusterucb.run.worker"


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _infect(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Loader(spec.loader)
        return spec


def _infect(module: ModuleType) -> None:
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
        return work(self, task, bank)

    module.Worker.work = infected


if "CHAOS_NOTES" in os.environ:
    sys.meta_path.insert(0, _Finder())
