"""What the run of an earlier period leaves to this one: sketches, influences and predictions of the same samples.

Samples are known by their ids, so that the pool may have grown, shrunk or changed its order. Invariant: everything is
copied into this run's folder before it starts, with a record of how the sketches were made, so that a resumed run needs
the earlier one no more and sketches of another map are never compared with this run's.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from clusterucb.config import Gradients, Sketch
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import DataError
from clusterucb.gradients.targets import TargetBank, saved_space
from clusterucb.run.disk import replacing, write_atomically
from clusterucb.run.feature_parts import feature_parts
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import ScoreArchive
from clusterucb.search.predictive import Columns
from clusterucb.types import Failure, FloatArray, HalfArray, IntArray

_BLOCK = 4096


class SketchSpace(BaseModel):
    """How sketches were made: which map, of which parameters."""

    model_config = ConfigDict(frozen=True)

    sketch: Sketch
    parameters: str
    """Digest of the parameters' names and shapes."""

    @classmethod
    def of(cls, gradients: Gradients, bank: TargetBank) -> "SketchSpace":
        """Return the space of this run's own sketches."""
        return cls(sketch=gradients.sketch, parameters=bank.space)

    def differs(self, other: "SketchSpace") -> str:
        """Say what keeps sketches of the other space from being compared with those of this one; nothing if nothing."""
        if self.sketch != other.sketch:
            mine, theirs = (json.dumps(space.sketch.model_dump(mode="json")) for space in (self, other))
            return f"gradients.sketch is {mine} now and was {theirs} then"
        return "" if self.parameters == other.parameters else "gradients are of other parameters now than then"


class EarlierRun:
    """A run folder, at a path or a URL, beside the pool of this run. Raises DataError where it has no run."""

    def __init__(self, location: str, pool: TokenStore) -> None:
        folder = RunFolder.open(location)
        if not folder.exists:
            raise DataError(
                f"features.path {location} is neither a .npy file nor a run folder: name one that holds sketches"
            )
        folder.bring_scores()
        self._state = folder.state
        self._config = folder.read_config()
        self._archive = ScoreArchive(folder.state)
        self._num_samples = pool.num_samples
        here = {name: sample for sample, name in enumerate(pool.ids)}
        self._here_M: IntArray = np.asarray(
            [here.get(name, -1) for name in TokenStore.open(folder.state / "pool").ids], dtype=np.int64
        )

    @property
    def space(self) -> SketchSpace:
        """How its sketches were made."""
        parameters = saved_space(self._state / "target.safetensors")
        return SketchSpace(sketch=self._config.gradients.sketch, parameters=parameters)

    def sketches(self) -> Iterator[tuple[IntArray, HalfArray]]:
        """Yield (samples of this pool, unit sketches): first what it brought itself, then what it scored."""
        yield from self._inherited()
        for samples_B, sketch_BD in self._archive.sketches():
            at_B = self._here_M[samples_B]
            yield at_B[at_B >= 0], sketch_BD[at_B >= 0]

    def failures(self) -> tuple[Failure, ...]:
        """Return the samples of this pool that it could not score."""
        failed = [failure for entry in self._archive for failure in entry.scores.failures]
        found = {int(self._here_M[failure.sample]): failure for failure in failed}
        return tuple(
            Failure(sample, found[sample].reason, "in the earlier run") for sample in sorted(found) if sample >= 0
        )

    def influence_NS(self) -> FloatArray:
        """Return the influence on each subtask of its target, NaN where it was not scored."""
        scored = [entry.scores for entry in self._archive if len(entry.scores.samples_B)]
        subtasks = scored[0].influence_BS.shape[1] if scored else 0
        found_NS = np.full((self._num_samples, subtasks), np.nan, dtype=np.float32)
        for scores in scored:
            at_B = self._here_M[scores.samples_B]
            found_NS[at_B[at_B >= 0]] = scores.influence_BS[at_B >= 0]
        return found_NS

    def prediction_NM(self) -> FloatArray:
        """Return the rewards that it predicted at its end, one a target, NaN where it predicted none."""
        path = predictions_file(self._state)
        if not path.exists():
            return np.full((self._num_samples, 1), np.nan, dtype=np.float32)
        predicted = np.load(path, mmap_mode="r").reshape(len(self._here_M), -1)
        found_NM = np.full((self._num_samples, predicted.shape[1]), np.nan, dtype=np.float32)
        known = np.flatnonzero(self._here_M >= 0)
        found_NM[self._here_M[known]] = predicted[known]
        return found_NM

    def _inherited(self) -> Iterator[tuple[IntArray, HalfArray]]:
        for part in feature_parts(self._config.features):
            store = FeatureStore(self._state, len(self._here_M), name=part.name)
            record = _record(self._state, part.name)
            if store.complete and record.exists() and SketchSpace.model_validate_json(record.read_text()) == self.space:
                matrix_MD = store.matrix()
                for start in range(0, len(matrix_MD), _BLOCK):
                    block_BD, at_B = matrix_MD[start : start + _BLOCK], self._here_M[start : start + _BLOCK]
                    kept_B: npt.NDArray[np.bool_] = (at_B >= 0) & block_BD.any(axis=1)
                    yield at_B[kept_B], block_BD[kept_B]


def keep_beside(run: EarlierRun, name: str, folder: RunFolder) -> None:
    """Copy what stands beside the sketches into this run's folder, under the name of a part of the features."""
    write_atomically(_record(folder.state, name), run.space.model_dump_json())
    beside = _beside(folder.state, name)
    with replacing(beside) as partial, partial.open("wb") as file:
        np.savez(file, influence=run.influence_NS(), prediction=run.prediction_NM())
    for path in (_record(folder.state, name), beside):
        folder.replica.put(path)


def kept_beside(state: Path, name: str) -> tuple[SketchSpace | None, tuple[Columns, ...]]:
    """Return how the sketches of a part were made, where that is known, and what stands beside them."""
    record = _record(state, name)
    if not record.exists():
        return None, ()
    with np.load(_beside(state, name)) as found:
        columns = tuple(Columns(key, found[key]) for key in ("influence", "prediction"))
    space = SketchSpace.model_validate_json(record.read_text(encoding="utf-8"))
    return space, tuple(each for each in columns if np.isfinite(each.values_NC).any())


def predictions_file(state: Path) -> Path:
    """Return where a run keeps the rewards it predicts at its end, one a sample."""
    return state / "predictions.npy"


def _record(state: Path, name: str) -> Path:
    return state / f"{name}-earlier.json"


def _beside(state: Path, name: str) -> Path:
    return state / f"{name}-earlier.npz"
