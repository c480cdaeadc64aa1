"""What a tracker is to a run, and which there are.

Invariant: a library that is missing is an error before anything is computed; imports happen here alone.
"""

# MLflow and W&B are for users to install.
# pyright: reportMissingImports=false

import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from clusterucb.config import Sinks
from clusterucb.errors import ConfigError
from clusterucb.run.run_folder import RunFolder
from ray_app.sinks.scalars import Scalar

_LIBRARIES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow-skinny", "wandb": "wandb"}


class Sink(Protocol):
    """A tracker; what it raises is reported once, and then it is left alone."""

    def write(self, scalars: Sequence[Scalar]) -> None:
        """Take some scalars over."""
        ...

    def close(self, ended: bool) -> None:
        """Finish; `ended` says that the run did too, rather than being stopped."""
        ...


def check_sinks(sinks: Sinks) -> None:
    """Raise ConfigError where a tracker is asked for and its library is not installed."""
    for name, library in _LIBRARIES.items():
        if getattr(sinks, name) is not None and importlib.util.find_spec(library) is None:
            raise ConfigError(
                f"sinks.{name} is set, but {library} is not installed: pip install {_PACKAGES[name]}, or leave it out"
            )


def sink_makers(sinks: Sinks, folder: RunFolder) -> dict[str, Callable[[], Sink]]:
    """Return what opens each tracker that is asked for, by name."""
    found: dict[str, Callable[[], Sink]] = {}
    if (tensorboard := sinks.tensorboard) is not None:
        found["tensorboard"] = lambda: _TensorBoard(tensorboard.folder or str(folder.path / "tensorboard"))
    if (mlflow := sinks.mlflow) is not None:
        found["mlflow"] = lambda: _MLflow(mlflow.uri, mlflow.experiment, folder)
    if (wandb := sinks.wandb) is not None:
        found["wandb"] = lambda: _WandB(wandb.project, wandb.entity, wandb.mode, folder)
    return found


class _TensorBoard:
    def __init__(self, folder: str) -> None:
        from tensorboardX import SummaryWriter

        # Its own names count seconds: a run taken up within one would write over what stands there.
        self._writer = SummaryWriter(folder, filename_suffix=f".{time.monotonic_ns()}")

    def write(self, scalars: Sequence[Scalar]) -> None:
        for scalar in scalars:
            self._writer.add_scalar(scalar.name, scalar.value, scalar.step, walltime=scalar.time)
        self._writer.flush()

    def close(self, ended: bool) -> None:
        self._writer.close()


class _MLflow:
    def __init__(self, uri: str | None, experiment: str, folder: RunFolder) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(uri)
        found = self._client.get_experiment_by_name(experiment)
        number = self._client.create_experiment(experiment) if found is None else found.experiment_id
        self._run = self._begun(number, folder)

    def _begun(self, experiment: str, folder: RunFolder) -> str:
        """Return the run that an earlier driver began for this folder, or begin one."""
        from mlflow.entities import Metric

        self._metric = Metric
        tags = {"clusterucb.folder": folder.location}
        mark = '"' if "'" in folder.location else "'"  # MLflow's filters know no escapes
        earlier = self._client.search_runs([experiment], f"tags.`clusterucb.folder` = {mark}{folder.location}{mark}")
        if earlier:
            return earlier[0].info.run_id
        run = self._client.create_run(experiment, run_name=folder.name, tags=tags).info.run_id
        for name, value in flat(folder.read_config().model_dump(mode="json")).items():
            self._client.log_param(run, name, str(value)[:500])
        return run

    def write(self, scalars: Sequence[Scalar]) -> None:
        for start in range(0, len(scalars), 1000):  # what a server takes at a time
            part = scalars[start : start + 1000]
            metrics = [self._metric(each.name, each.value, int(each.time * 1000), each.step) for each in part]
            self._client.log_batch(self._run, metrics=metrics)

    def close(self, ended: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if ended else "KILLED")


class _WandB:
    def __init__(self, project: str, entity: str | None, mode: str, folder: RunFolder) -> None:
        import hashlib

        import wandb

        self._run = wandb.init(
            project=project,
            entity=entity,
            mode=mode,
            dir=str(folder.path),
            id=hashlib.blake2b(folder.location.encode(), digest_size=8).hexdigest(),
            name=folder.name,
            resume="allow",
            config=folder.read_config().model_dump(mode="json"),
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, scalars: Sequence[Scalar]) -> None:
        for scalar in scalars:
            self._run.log({scalar.name: scalar.value, "step": scalar.step})

    def close(self, ended: bool) -> None:
        self._run.finish(exit_code=0 if ended else 1)


def flat(tree: Any, key: str = "") -> dict[str, Any]:
    """Return a configuration's values by dotted key."""
    if isinstance(tree, dict) and tree:
        return {
            name: value
            for part, below in tree.items()
            for name, value in flat(below, f"{key}.{part}" if key else str(part)).items()
        }
    return {key: json.dumps(tree) if isinstance(tree, dict | list) else tree}
