"""How sure a difference is: paired over seeds, and over held-out examples.

A study has few seeds and many examples. The t-test asks whether trainings differ, seed against seed of the same start
and order; the bootstrap draws seeds and examples anew, both together, and so covers which examples were held out too.
"""

# scipy is typed only in part.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy import stats

Losses = npt.NDArray[np.float64]
_DRAWS, _AT_ONCE = 4_000, 250


class Difference(BaseModel):
    """How far an arm's loss is from another's: below zero is better."""

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float
    high: float
    """The middle 95 % of a bootstrap over seeds and examples."""
    p: float | None
    """Of a paired t-test over seeds, two-sided; none for fewer than two, or where all differ by the same."""
    better: int
    """Seeds in which the arm has the lower loss."""
    seeds: int


def difference(ours_RE: Losses, theirs_RE: Losses, rng: np.random.Generator) -> Difference:
    """Compare the losses of R seeds on E examples, paired in both."""
    apart_RE = ours_RE - theirs_RE
    seeds, examples = apart_RE.shape
    means_R = apart_RE.mean(axis=1)
    drawn: list[Losses] = []
    for _ in range(_DRAWS // _AT_ONCE):
        seeds_DR = rng.integers(seeds, size=(_AT_ONCE, seeds))
        examples_DE = rng.integers(examples, size=(_AT_ONCE, examples))
        drawn.append(np.take_along_axis(apart_RE[seeds_DR].mean(axis=1), examples_DE, axis=1).mean(axis=1))
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975]).tolist()
    return Difference(
        mean=float(means_R.mean()),
        low=float(low),
        high=float(high),
        p=_paired_t(means_R),
        better=int((means_R < 0).sum()),
        seeds=seeds,
    )


def _paired_t(apart_R: Losses) -> float | None:
    if len(apart_R) < 2 or np.ptp(apart_R) == 0:
        return None
    found: Any = stats.ttest_1samp(apart_R, 0.0)
    p = float(found.pvalue)
    return p if math.isfinite(p) else None
