"""`summary.json` of a study: every arm's loss over steps, its differences, and what it trained on."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from clusterucb.data.tokens import TokenStore
from clusterucb.evaluation.judged import Judged, Measure, by_subtask
from clusterucb.run.disk import write_atomically
from clusterucb.study.statistics import Difference, Losses, difference
from clusterucb.study.trial import Curve
from clusterucb.training.order import generator
from clusterucb.types import IntArray

BASELINE = "random"


class Material(BaseModel):
    """What an arm trains on, mean over its seeds."""

    model_config = ConfigDict(frozen=True)

    samples: float
    tokens: float
    """Mean length of a sample."""
    label_tokens: float
    """Mean length of what is learnt of a sample: its answers."""
    median_label_tokens: float
    of_selected: float | None
    """Share of the samples that the selected arm has too."""


class AtStep(BaseModel):
    """The arm after some steps: mean and standard deviation over seeds."""

    model_config = ConfigDict(frozen=True)

    step: int
    loss: float
    loss_std: float
    token_loss: float
    accuracy: float


class ArmResult(BaseModel):
    """One arm."""

    model_config = ConfigDict(frozen=True)

    arm: str
    seeds: tuple[int, ...]
    material: Material
    curve: tuple[AtStep, ...]
    """From no training to the last step."""
    losses: tuple[float, ...]
    """Of each seed, at the end."""
    against: dict[str, Difference]
    """This arm's loss against another's at the end, by that arm's name; `none` is no training."""
    subtasks: dict[str, float]
    """Loss at the end on each subtask of the examples, where there are several."""

    @property
    def end(self) -> AtStep:
        """The last point."""
        return self.curve[-1]


class StudySummary(BaseModel):
    """The end of a study."""

    model_config = ConfigDict(frozen=True)

    run: str
    held_out: int
    """Examples."""
    steps: int
    batch_size: int
    learning_rate: float
    untrained: Measure
    arms: tuple[ArmResult, ...]


def material_of(pool: TokenStore, subsets: Sequence[IntArray], selected: IntArray | None) -> Material:
    """Describe the subsets of an arm's seeds."""

    def mean(values: list[float]) -> float:
        return float(np.mean(values))

    return Material(
        samples=mean([len(subset) for subset in subsets]),
        tokens=mean([pool.lengths_N[subset].mean() for subset in subsets]),
        label_tokens=mean([pool.label_counts_N[subset].mean() for subset in subsets]),
        median_label_tokens=mean([float(np.median(pool.label_counts_N[subset])) for subset in subsets]),
        of_selected=None if selected is None else mean([np.isin(subset, selected).mean() for subset in subsets]),
    )


def arm_results(
    curves: Mapping[str, Sequence[Curve]], materials: Mapping[str, Material], untrained: Curve, seed: int
) -> tuple[ArmResult, ...]:
    """Compare every arm with every other and with no training; curves of an arm are in the order of seeds."""
    ends = {arm: _losses(each) for arm, each in curves.items()}
    before = untrained.points[0]
    results: list[ArmResult] = []
    for arm, each in curves.items():
        nothing_RE = np.repeat(_row(before.examples)[None], len(each), axis=0)
        others = {"none": nothing_RE, **{name: losses for name, losses in ends.items() if name != arm}}
        results.append(
            ArmResult(
                arm=arm,
                seeds=tuple(curve.seed for curve in each),
                material=materials[arm],
                curve=(_at([untrained], 0), *(_at(each, i) for i in range(len(each[0].points)))),
                losses=tuple(float(loss) for loss in ends[arm].mean(axis=1)),
                against={
                    name: difference(ends[arm], losses_RE, generator(f"study {arm} {name}", seed))
                    for name, losses_RE in others.items()
                },
                subtasks=_by_subtask(each),
            )
        )
    return tuple(results)


def write_csv(path: Path, curves: Mapping[str, Sequence[Curve]], untrained: Curve) -> None:
    """Write a line for every arm, seed and step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("arm", "seed", "step", "examples", "loss", "token_loss", "accuracy"))
    for name, each in {"none": (untrained,), **curves}.items():
        for curve in each:
            for point in curve.points:
                found = point.measure
                row = (found.examples, f"{found.loss:.6f}", f"{found.token_loss:.6f}", f"{found.accuracy:.6f}")
                writer.writerow((name, curve.seed, point.step, *row))
    write_atomically(path, text.getvalue())


def _at(curves: Sequence[Curve], place: int) -> AtStep:
    points = [curve.points[place] for curve in curves]
    losses = [point.measure.loss for point in points]
    return AtStep(
        step=points[0].step,
        loss=float(np.mean(losses)),
        loss_std=float(np.std(losses, ddof=1)) if len(losses) > 1 else 0.0,
        token_loss=float(np.mean([point.measure.token_loss for point in points])),
        accuracy=float(np.mean([point.measure.accuracy for point in points])),
    )


def _losses(curves: Sequence[Curve]) -> Losses:
    return np.stack([_row(curve.points[-1].examples) for curve in curves])


def _row(examples: Sequence[Judged]) -> Losses:
    return np.asarray([example.loss for example in examples], np.float64)


def _by_subtask(curves: Sequence[Curve]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for curve in curves:
        for name, group in by_subtask(curve.points[-1].examples).items():
            found.setdefault(name, []).append(float(_row(group).mean()))
    return {name: float(np.mean(losses)) for name, losses in found.items()} if len(found) > 1 else {}
