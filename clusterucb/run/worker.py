"""One worker: a model in memory that answers tasks. The Ray actor and the in-process loop wrap this same object.

Invariant: an answer depends on the configuration, the task and the target bank alone, never on what was asked before.
"""

import resource
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from clusterucb.checkpoint.model import load_model
from clusterucb.checkpoint.moments import check_moments, load_moments
from clusterucb.config import EmbeddingFeatures, HiddenFeatures, RunConfig
from clusterucb.features.embedding import Encoder
from clusterucb.features.hidden import HiddenFeaturiser
from clusterucb.gradients.engine import GradientEngine
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.tasks import Answer, EmbeddingTask, HiddenTask, ScoreTask, TargetTask, Task
from clusterucb.types import WorkerInfo


def peak_host_gib() -> float:
    """Return the largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Worker:
    """Loads the checkpoint once; `work` answers tasks one at a time."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self._config = config
        self._device = device
        loaded = load_model(config.model, device, config.seed, config.gradients.modules)
        self._model = loaded.model
        moments = None
        if config.model.moments is not None and config.gradients.precondition.kind == "adam":
            moments = load_moments(Path(config.model.moments), loaded.model)
        self._engine = GradientEngine(loaded.model, config.gradients, moments, device)
        if moments is not None:
            check_moments(moments, self._engine.shapes)
        self._notes = (*loaded.notes, *self._engine.notes)
        self._bank: tuple[str, TargetBank] | None = None

    def work(self, task: Task, bank: Callable[[], TargetBank]) -> Answer:
        """Answer one task; `bank` brings the target bank where the one in hand is not the task's."""
        match task:
            case ScoreTask():
                return self._engine.score(task.batch, self._target_bank(task.bank, bank))
            case TargetTask():
                return self._engine.target(task.batch, task.subtask)
            case HiddenTask():
                return self._hidden.features(task.batch)
            case EmbeddingTask():
                return self._encoder.features(task.samples_B, task.texts)

    def info(self) -> WorkerInfo:
        """Describe the worker."""
        on_cuda = self._device.type == "cuda"
        device_bytes = torch.cuda.max_memory_allocated(self._device) if on_cuda else 0
        name = torch.cuda.get_device_name(self._device) if on_cuda else "cpu"
        return WorkerInfo(name, self._notes, peak_host_gib(), device_bytes / 2**30)

    def _target_bank(self, key: str, bring: Callable[[], TargetBank]) -> TargetBank:
        if self._bank is None or self._bank[0] != key:
            self._bank = (key, bring().to(self._device))
        return self._bank[1]

    @cached_property
    def _hidden(self) -> HiddenFeaturiser:
        features = self._config.features
        assert isinstance(features, HiddenFeatures)
        return HiddenFeaturiser(self._model, features)

    @cached_property
    def _encoder(self) -> Encoder:
        features = self._config.features
        assert isinstance(features, EmbeddingFeatures)
        return Encoder(features, self._device)
