"""Everything scored in a run, as columns in pool order: the same table whatever order the scores came in."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb.run.score_log import ScoreArchive
from clusterucb.types import Failure, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """B scored samples, ascending, and the samples that failed.

    `reward_B` is the influence on the subtask that the sample serves best, `subtask_B` that subtask.
    """

    samples_B: IntArray
    influence_BS: FloatArray
    squared_norm_B: FloatArray
    loss_B: FloatArray
    round_B: npt.NDArray[np.int32]
    """Round of the search; -1 outside it."""
    stage_B: npt.NDArray[np.str_]
    reused_B: npt.NDArray[np.bool_]
    """Whether the influence is that of a sketch from the store."""
    failures: tuple[Failure, ...]

    @property
    def reward_B(self) -> npt.NDArray[np.float64]:
        """Maximum over subtasks."""
        return self.influence_BS.max(axis=1).astype(np.float64)

    @property
    def subtask_B(self) -> IntArray:
        """The subtask with the maximum; the first of equals."""
        return self.influence_BS.argmax(axis=1)

    @property
    def computed(self) -> "ScoreTable":
        """The samples whose gradients this run took."""
        return self.where(~self.reused_B)

    def where(self, kept_B: npt.NDArray[np.bool_]) -> "ScoreTable":
        """Return some of the scored samples."""
        columns = {name: getattr(self, name)[kept_B] for name in self.__slots__ if name != "failures"}
        return ScoreTable(**columns, failures=self.failures)

    @classmethod
    def drawn(cls, log: ScoreArchive, num_subtasks: int, scoring: str) -> "ScoreTable":
        """Gather what may be selected: everything drawn, but with shortlist scoring only what was scored exactly."""
        if scoring == "shortlist":
            return cls.of(log, num_subtasks, ("search", "pool", "shortlist")).computed
        return cls.of(log, num_subtasks, ("search", "pool"))

    @classmethod
    def of(
        cls, log: ScoreArchive, num_subtasks: int, stages: Collection[str] = ("search", "pool", "audit")
    ) -> "ScoreTable":
        """Gather the entries of some stages. A sample that was logged twice counts once, as computed if it ever was."""
        entries = [entry for entry in log if entry.stage in stages]
        failures = {failure.sample: failure for entry in entries for failure in entry.scores.failures}
        entries = [entry for entry in entries if len(entry.scores.samples_B)]  # the others may not know S
        entries.sort(key=lambda entry: entry.reused)
        samples = np.concatenate([np.empty(0, np.int64), *(entry.scores.samples_B for entry in entries)])
        sizes = [len(entry.scores.samples_B) for entry in entries]
        samples_B, first = np.unique(samples, return_index=True)
        none = np.empty((0, num_subtasks), np.float32)
        return cls(
            samples_B=samples_B,
            influence_BS=np.concatenate([none, *(entry.scores.influence_BS for entry in entries)])[first],
            squared_norm_B=np.concatenate([none[:, 0], *(entry.scores.squared_norm_B for entry in entries)])[first],
            loss_B=np.concatenate([none[:, 0], *(entry.scores.loss_B for entry in entries)])[first],
            round_B=np.repeat(np.asarray([entry.round for entry in entries], np.int32), sizes)[first],
            stage_B=np.repeat(np.asarray([entry.stage for entry in entries], np.str_), sizes)[first],
            reused_B=np.repeat(np.asarray([entry.reused for entry in entries], np.bool_), sizes)[first],
            failures=tuple(failures[sample] for sample in sorted(failures)),
        )
