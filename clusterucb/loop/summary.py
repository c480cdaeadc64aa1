"""`summary.json` of a loop: what each period chose, how the influence moved from one to the next, how training went."""

# pyarrow and scipy are typed only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict
from scipy.stats import rankdata

from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import Recall, read_summary
from clusterucb.training.summary import TrainingSummary, read_training_summary


class Drift(BaseModel):
    """How the influence of samples moved since the last period, over those scored in both."""

    model_config = ConfigDict(frozen=True)

    scored_in_both: int
    rank_correlation: float | None
    """None for fewer than three."""
    selected_again: int


class PeriodSummary(BaseModel):
    """One period."""

    model_config = ConfigDict(frozen=True)

    period: int
    scored: int
    selected: int
    threshold: float
    median_label_tokens: float
    audit: Recall | None
    drift: Drift | None
    training: TrainingSummary


class LoopSummary(BaseModel):
    """The end of a loop."""

    model_config = ConfigDict(frozen=True)

    run: str
    mode: str
    warmup: TrainingSummary | None
    weights: tuple[float, ...]
    """Of the warm-up's checkpoints in a static selection."""
    periods: tuple[PeriodSummary, ...]
    merged: bool


def period_summary(period: int, selection: RunFolder, training: RunFolder, last: RunFolder | None) -> PeriodSummary:
    """Summarise a finished period; `last` is the selection before it."""
    found = read_summary(selection)
    return PeriodSummary(
        period=period,
        scored=found.scored,
        selected=found.selected,
        threshold=found.threshold,
        median_label_tokens=found.label_tokens.selected.median if found.label_tokens.selected else 0.0,
        audit=found.audit,
        drift=None if last is None else drift_between(last, selection),
        training=read_training_summary(training.summary_file),
    )


def drift_between(last: RunFolder, now: RunFolder) -> Drift:
    """Compare the influences that two finished selections of one pool found."""
    before, after = _scores(last), _scores(now)
    both = sorted(before.keys() & after.keys())
    old, new = ([scores[name][0] for name in both] for scores in (before, after))
    again = sum(before[name][1] > 0 and after[name][1] > 0 for name in both)
    return Drift(scored_in_both=len(both), rank_correlation=rank_correlation(old, new), selected_again=again)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's coefficient; None where it has no meaning."""
    if len(first) < 3:
        return None
    ranks = np.stack([np.asarray(rankdata(first), np.float64), np.asarray(rankdata(second), np.float64)])
    if (ranks.std(axis=1) == 0).any():
        return None
    correlation_22 = np.asarray(np.corrcoef(ranks))
    return float(correlation_22[0, 1])


def _scores(folder: RunFolder) -> dict[str, tuple[float, int]]:
    table = pq.read_table(folder.scores_file, columns=["id", "influence", "rank"]).to_pydict()
    return {
        str(name): (float(influence), int(rank))
        for name, influence, rank in zip(table["id"], table["influence"], table["rank"], strict=True)
    }
