"""Features of a prepared folder's pool, and what they are matched with, driven like a selection."""

from collections.abc import Iterator, Sequence

from clusterucb.config import RunConfig
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.events import Emit
from clusterucb.run.feature_parts import prepared_matches, prepared_parts
from clusterucb.run.feature_stage import feature_stages
from clusterucb.run.prepared import open_prepared
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.tasks import Stage
from clusterucb.types import WorkerInfo


class FeatureRun:
    """Fills the feature store of a run folder; what is there is not computed again."""

    def __init__(self, config: RunConfig, folder: RunFolder, emit: Emit) -> None:
        self.workers: Sequence[WorkerInfo] = ()
        self._config = config
        self._folder = folder
        self._emit = emit

    @property
    def bank(self) -> TargetBank:
        """Features need none."""
        raise AssertionError("no stage of this run asks for a target bank")

    def stages(self) -> Iterator[Stage]:
        """Yield the stages that compute the features, where workers are needed for them."""
        pool, target = open_prepared(self._folder)
        yield from feature_stages(self._config, prepared_parts(self._config, pool), pool, self._folder, self._emit)
        yield from feature_stages(
            self._config, prepared_matches(self._config, target), target, self._folder, self._emit
        )

    def close(self) -> None:
        """Nothing is open between stages."""
