"""What a comparison leaves: a row a trial as CSV, and means with their spread over the seeds as JSON."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from clusterucb.compare.comparison import Trial
from clusterucb.run.disk import write_atomically


class Spread(BaseModel):
    """Mean and sample standard deviation over seeds; the deviation of one seed is 0."""

    model_config = ConfigDict(frozen=True)

    mean: float
    std: float


class Line(BaseModel):
    """One allocator on one kind of features with one budget."""

    model_config = ConfigDict(frozen=True)

    features: str
    allocator: str
    budget: float
    target: str
    clusters: int
    recall: Spread
    influence: Spread
    spearman: Spread | None
    gradients: Spread
    cost: Spread
    features_cost: float
    on_front: bool
    """Whether no other line of this target has at least its recall for less."""


class Comparison(BaseModel):
    """All lines, in the order of the trials, and what they are shares of."""

    model_config = ConfigDict(frozen=True)

    pool: int
    selected: int
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, the mean of several last; one name, which is empty, where there is one."""
        return tuple(dict.fromkeys(line.target for line in self.lines))

    def front(self, target: str) -> tuple[Line, ...]:
        """Return the lines that recall most for their cost, the cheapest first."""
        front = (line for line in self.lines if line.target == target and line.on_front)
        return tuple(sorted(front, key=lambda line: line.cost.mean))


def averages(trials: Iterable[Trial]) -> tuple[Line, ...]:
    """Average over seeds, keeping the order in which features, allocators and targets first appear; budgets ascend."""
    groups: dict[tuple[str, str, str], dict[float, list[Trial]]] = {}
    for trial in trials:
        key = (trial.features, trial.allocator, trial.target)
        groups.setdefault(key, {}).setdefault(trial.budget, []).append(trial)
    lines = [_line(budgets[budget]) for budgets in groups.values() for budget in sorted(budgets)]
    return tuple(line.model_copy(update={"on_front": not _beaten(line, lines)}) for line in lines)


def _beaten(line: Line, lines: Sequence[Line]) -> bool:
    """Whether another line recalls as much for less, or more for as much."""
    return any(
        other.target == line.target
        and other.recall.mean >= line.recall.mean
        and other.cost.mean <= line.cost.mean
        and (other.recall.mean, other.cost.mean) != (line.recall.mean, line.cost.mean)
        for other in lines
    )


def _line(group: Sequence[Trial]) -> Line:
    first = group[0]
    ranked = not math.isnan(first.spearman)
    return Line(
        features=first.features,
        allocator=first.allocator,
        budget=first.budget,
        target=first.target,
        clusters=first.clusters,
        recall=_spread([trial.recall for trial in group]),
        influence=_spread([trial.influence for trial in group]),
        spearman=_spread([trial.spearman for trial in group]) if ranked else None,
        gradients=_spread([trial.gradients for trial in group]),
        cost=_spread([trial.cost for trial in group]),
        features_cost=first.features_cost,
        on_front=False,
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean=float(np.mean(values)), std=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


def write_csv(path: Path, trials: Iterable[Trial]) -> None:
    """Write a row a trial; a number that does not exist is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Trial)], lineterminator="\n")
    writer.writeheader()
    for trial in trials:
        row: dict[str, object] = asdict(trial)
        writer.writerow({name: _cell(value) for name, value in row.items()})
    write_atomically(path, text.getvalue())


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value
