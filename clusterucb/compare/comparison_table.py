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
    clusters: int
    recall: Spread
    influence: Spread
    spearman: Spread | None
    gradients: Spread
    cost: Spread


class Comparison(BaseModel):
    """All lines, in the order of the trials, and what they are shares of."""

    model_config = ConfigDict(frozen=True)

    pool: int
    selected: int
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]


def averages(trials: Iterable[Trial]) -> tuple[Line, ...]:
    """Average over seeds, keeping the order in which features and allocators first appear; budgets ascend."""
    groups: dict[tuple[str, str], dict[float, list[Trial]]] = {}
    for trial in trials:
        groups.setdefault((trial.features, trial.allocator), {}).setdefault(trial.budget, []).append(trial)
    return tuple(_line(budgets[budget]) for budgets in groups.values() for budget in sorted(budgets))


def _line(group: Sequence[Trial]) -> Line:
    first = group[0]
    ranked = not math.isnan(first.spearman)
    return Line(
        features=first.features,
        allocator=first.allocator,
        budget=first.budget,
        clusters=first.clusters,
        recall=_spread([trial.recall for trial in group]),
        influence=_spread([trial.influence for trial in group]),
        spearman=_spread([trial.spearman for trial in group]) if ranked else None,
        gradients=_spread([trial.gradients for trial in group]),
        cost=_spread([trial.cost for trial in group]),
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
