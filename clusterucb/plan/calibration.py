"""How long micro-batches take: a few typical ones of each kind are computed and timed, and a law is fitted to them.

Seconds are those that the worker itself counts, so that transport is left out; each kind is warmed up with one sample
that is not counted. The law has a cost a micro-batch, one a padded token, and one a pair of tokens (attention), none
of them negative.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from clusterucb.config import RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.gradients.targets import TargetBank, TargetPart, combine
from clusterucb.plan.planned_work import PlannedWork
from clusterucb.run.feature_parts import PreparedPart
from clusterucb.run.feature_stage import feature_task
from clusterucb.run.target_stage import target_batches
from clusterucb.run.tasks import Answer, ScoreTask, TargetTask, Task
from clusterucb.types import Hidden, IntArray

Real = npt.NDArray[np.float64]
Kind = str
"""`target`, `gradients`, or the name of a part of the features."""
Ask = Callable[[Task, TargetBank | None], Answer]
"""Answers a task on a worker; brings it the target bank where there is one."""

SECONDS_A_KIND = 4.0
"""After that no further micro-batch of a kind is tried; the first two always are."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One timed micro-batch."""

    kind: Kind
    samples: int
    longest: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a micro-batch: `batch` + `token` for each padded token + `pair` for each pair of them in a sample."""

    batch: float
    token: float
    pair: float

    @classmethod
    def of(cls, timings: Sequence[Timing]) -> "Speed":
        """Fit the least relative error."""
        seconds = np.array([timing.seconds for timing in timings])
        sizes = _sizes(
            np.array([timing.samples for timing in timings]), np.array([timing.longest for timing in timings])
        )
        fitted: Real = np.asarray(nnls(sizes / seconds[:, None], np.ones(len(seconds)))[0])  # pyright: ignore
        return cls(*fitted.tolist())

    def seconds(self, batches: Sequence[IntArray], lengths_N: IntArray) -> Real:
        """Return the seconds of each of some micro-batches."""
        counts = np.array([len(batch) for batch in batches])
        longest = np.array([int(lengths_N[batch].max()) for batch in batches])
        return _sizes(counts, longest) @ np.array([self.batch, self.token, self.pair])


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured."""

    timings: tuple[Timing, ...]
    widths: Mapping[str, int]
    """Numbers in a feature of each part that was computed."""

    def speed(self, kind: Kind) -> Speed:
        """Return the law of one kind."""
        return Speed.of([timing for timing in self.timings if timing.kind == kind])


def calibrate(config: RunConfig, work: PlannedWork, pool: TokenStore, target: TokenStore, ask: Ask) -> Calibration:
    """Time typical micro-batches of the planned kinds on one worker."""
    subtask_of = {int(batch[0]): name for name, batch in target_batches(target, config.gradients.batch_tokens)}
    parts: list[TargetPart] = []

    def examples(batch: IntArray) -> Answer:
        answer = ask(TargetTask(target.batch(batch), subtask_of[int(batch[0])]), None)
        assert isinstance(answer, TargetPart)
        parts.append(answer)
        return answer

    planned = {stage.stage: stage for stage in work.stages}
    timings = _timed("target", planned["target"].waves[0], target.lengths_N, examples)
    names = tuple(dict.fromkeys(subtask_of.values()))
    # Every subtask gets the same gradients: products cost what they will cost, the influences mean nothing.
    best = max(parts, key=lambda part: part.count)
    bank = combine(names, [replace(best, subtask=name) for name in names])

    def gradients(batch: IntArray) -> Answer:
        return ask(ScoreTask(pool.batch(batch), bank.fingerprint), bank)

    timings += _timed("gradients", work.exhaustive.waves[0], pool.lengths_N, gradients)
    widths: dict[str, int] = {}

    def features(part: PreparedPart, batch: IntArray) -> Answer:
        answer = ask(feature_task(config, part)(batch), None)
        assert isinstance(answer, Hidden)
        widths[part.name] = answer.features_BF.shape[1]
        return answer

    for stage in work.stages:
        if stage.part is not None and stage.part.side == "pool":  # the target's passes are of the same kind
            lengths_N = stage.part.tokens.lengths_N
            timings += _timed(stage.stage, stage.waves[0], lengths_N, partial(features, stage.part))
    return Calibration(tuple(timings), widths)


def _timed(
    kind: Kind, batches: Sequence[IntArray], lengths_N: IntArray, compute: Callable[[IntArray], Answer]
) -> list[Timing]:
    timings: list[Timing] = []
    probes = _typical(batches, lengths_N)
    compute(probes[0])
    for batch in probes:
        seconds = compute(batch).seconds
        timings.append(Timing(kind, len(batch), int(lengths_N[batch].max()), seconds))
        if len(timings) > 1 and sum(timing.seconds for timing in timings) > SECONDS_A_KIND:
            break
    return timings


def _typical(batches: Sequence[IntArray], lengths_N: IntArray) -> list[IntArray]:
    """Return a sample alone, then micro-batches at quantiles of length: the middle, the longest, the quartiles."""
    order = sorted(range(len(batches)), key=lambda i: -int(lengths_N[batches[i]].max()))
    places = dict.fromkeys(int(share * (len(order) - 1)) for share in (0.5, 0.0, 0.75, 0.25))
    middle = batches[order[len(order) // 2]]
    return [middle[:1], *(batches[order[place]] for place in places)]


def _sizes(samples: IntArray, longest: IntArray) -> Real:
    return np.stack([np.ones_like(samples), samples * longest, samples * longest**2], axis=1).astype(np.float64)
