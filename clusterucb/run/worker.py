"""One worker: a model in memory that answers tasks. The Ray actor and the in-process loop wrap this same object.

Invariant: an answer depends on the configuration, the task and the target bank alone, never on what was asked before,
by the same run or by an earlier one of the same checkpoint.
"""

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from clusterucb.checkpoint.gathering import HeldBytes
from clusterucb.checkpoint.model import LoadedModel, Modules, load_model
from clusterucb.checkpoint.moments import check_moments, load_moments
from clusterucb.config import (
    EmbeddingFeatures,
    Feature,
    Features,
    HiddenFeatures,
    Model,
    OutputGradientFeatures,
    ProxyFeatures,
    RunConfig,
)
from clusterucb.features.embedding import Encoder
from clusterucb.features.hidden import HiddenFeaturiser
from clusterucb.features.output_gradient import OutputGradientFeaturiser
from clusterucb.features.proxy import Proxy
from clusterucb.gradients.engine import GradientEngine
from clusterucb.gradients.lockstep import Lockstep
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.feature_parts import feature_parts
from clusterucb.run.tasks import Answer, EmbeddingTask, FeatureTask, ScoreTask, TargetTask, Task
from clusterucb.types import Hidden, TokenBatch, WorkerInfo

Featurise = Callable[[TokenBatch], Hidden]
"""Computes a part of the features from its tokens."""
Loader = Callable[[Model, torch.device, int, Modules], LoadedModel]

_SHORT = TokenBatch(np.array([0]), np.array([1, 2], np.int32), np.array([False, True]), np.array([0, 2]))
"""A sample for the first pass of a kind, which all ranks of a gang run."""


def peak_host_gib() -> float:
    """Return the largest resident size of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class Worker:
    """Loads the checkpoint once; `work` answers tasks one at a time.

    With a loader that brings a share of the model, this is one rank of a gang: all of them load, and answer as many
    tasks of the same kinds in the same order, each with its own samples or none.
    """

    def __init__(self, config: RunConfig, device: torch.device, load: Loader = load_model) -> None:
        self._config = config
        self._device = device
        loaded = load(config.model, device, config.seed, config.gradients.modules)
        self._model = loaded.model
        self._shared = loaded.shared
        moments = None
        if config.model.moments is not None and config.gradients.precondition.kind == "adam":
            moments = load_moments(Path(config.model.moments), loaded.model)
        self._engine = GradientEngine(loaded.model, config.gradients, moments, device, passes=self._passes())
        if self._shared is not None:
            self._engine.target(_SHORT, "")
        if moments is not None:
            check_moments(moments, self._engine.shapes)
        self._notes = (*loaded.notes, *self._engine.notes)
        self._bank: tuple[str, TargetBank] | None = None
        self._parts = _by_name(config.features)
        self._featurisers: dict[str, Featurise] = {}
        self._proxies: dict[ProxyFeatures, Proxy] = {}
        self._encoders: dict[EmbeddingFeatures, Encoder] = {}

    def take_on(self, features: Features) -> None:
        """Turn to another run of the same checkpoint, with features of its own; nothing of the last one's is seen.

        What was learned of the device's memory is forgotten too, since it settles what is computed together. Models of
        features stay loaded where the new run has the very same.
        """
        self._bank = None
        self._engine.forget()
        self._parts = _by_name(features)
        self._featurisers.clear()
        wanted = set(self._parts.values())
        self._proxies = {part: proxy for part, proxy in self._proxies.items() if part in wanted}
        self._encoders = {part: encoder for part, encoder in self._encoders.items() if part in wanted}
        for proxy in self._proxies.values():
            proxy.forget()

    def work(self, task: Task, bank: Callable[[], TargetBank]) -> Answer:
        """Answer one task; `bank` brings the target bank where the one in hand is not the task's."""
        match task:
            case ScoreTask():
                return self._engine.score(task.batch, self._target_bank(task.bank, bank))
            case TargetTask():
                return self._engine.target(task.batch, task.subtask)
            case FeatureTask():
                return self._featuriser(task.part)(task.batch)
            case EmbeddingTask():
                return self._encoder(task.part).features(task.samples_B, task.texts)

    def info(self) -> WorkerInfo:
        """Describe the worker."""
        on_cuda = self._device.type == "cuda"
        device_bytes = torch.cuda.max_memory_allocated(self._device) if on_cuda else 0
        name = torch.cuda.get_device_name(self._device) if on_cuda else "cpu"
        return WorkerInfo(name, self._notes, peak_host_gib(), device_bytes / 2**30)

    @property
    def held(self) -> HeldBytes | None:
        """What a rank of a gang holds of the base weights between two tasks."""
        return None if self._shared is None else self._shared.held(self._model)

    def _passes(self) -> Lockstep | None:
        return None if self._shared is None else Lockstep(self._shared)

    def _target_bank(self, key: str, bring: Callable[[], TargetBank]) -> TargetBank:
        if self._bank is None or self._bank[0] != key:
            self._bank = (key, bring().to(self._device))
        return self._bank[1]

    def _featuriser(self, part: str) -> Featurise:
        """Return what computes a part; it is built when it is first asked for, and kept."""
        if part not in self._featurisers:
            self._featurisers[part] = self._built(part)
        return self._featurisers[part]

    def _built(self, part: str) -> Featurise:
        features = self._parts[part]
        if isinstance(features, ProxyFeatures):  # whole on every rank of a gang, so that no rank waits for another
            if features not in self._proxies:
                self._proxies[features] = Proxy(features, self._device, self._config.seed)
            return self._proxies[features].features
        featurise = self._of_model(features)
        if self._shared is not None:
            featurise(_SHORT)
        return featurise

    def _of_model(self, features: Feature) -> Featurise:
        match features:
            case HiddenFeatures():
                return HiddenFeaturiser(self._model, features, self._passes()).features
            case OutputGradientFeatures():
                loss, passes = self._engine.loss, self._passes()
                return OutputGradientFeaturiser(loss, features, self._device, passes).features
            case _:
                raise AssertionError(f"{features.kind} features are not computed from the model's tokens")

    def _encoder(self, part: str) -> Encoder:
        features = self._parts[part]
        assert isinstance(features, EmbeddingFeatures)
        if features not in self._encoders:
            self._encoders[features] = Encoder(features, self._device)
        return self._encoders[features]


def _by_name(features: Features) -> dict[str, Feature]:
    return {part.name: part.features for part in feature_parts(features)}
