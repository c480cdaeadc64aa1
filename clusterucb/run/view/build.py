"""From what a run holds in memory to its view."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clusterucb.config import RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.run.costs import CostLedger
from clusterucb.run.prepared import target_subtasks
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.summary import Share, Summary, composition, lengths_of
from clusterucb.run.view.arms import Labels, search_view, shortened
from clusterucb.run.view.histograms import counts, length_edges, median, value_edges
from clusterucb.run.view.model import (
    Composition,
    Histogram,
    Influence,
    Lengths,
    PoolFacts,
    Progress,
    RunView,
    Setup,
)
from clusterucb.run.view.samples import Texts, samples_view
from clusterucb.search.allocators import limit_of
from clusterucb.selection import SelectedSubset
from clusterucb.types import IntArray

_SOURCES = 40


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What a prepared run knows so far. `drawn` is what the search scored, `everything` the audit's samples too."""

    config: RunConfig
    pool: TokenStore
    target: TokenStore
    labels_N: Labels | None
    drawn: ScoreTable
    everything: ScoreTable
    subset: SelectedSubset | None
    """None where nothing can be selected yet."""
    cost: CostLedger | None
    summary: Summary | None
    """There once the run is over."""


def build_view(run: str, setup: Setup, progress: Progress, found: Evidence | None, texts: Texts | None) -> RunView:
    """Put a view together; `texts` reads rows of the pool, which takes a pass over it."""
    if found is None:
        return RunView(run=run, setup=setup, progress=progress)
    pool, drawn, summary = found.pool, found.drawn, found.summary
    usable_N = pool.usable_N if found.labels_N is None else pool.usable_N & (found.labels_N >= 0)
    usable, subtasks = int(usable_N.sum()), tuple(target_subtasks(found.target))
    facts = PoolFacts(
        samples=pool.num_samples,
        usable=usable,
        truncated=pool.num_truncated,
        tokens=int(pool.num_tokens),
        excluded=summary.excluded if summary else _excluded(found),
        target_examples=int(found.target.usable_N.sum()),
        subtasks=subtasks,
    )
    view = RunView(
        run=run,
        setup=setup,
        progress=progress,
        pool=facts,
        wanted=found.config.selection.size(usable),
        provisional=summary is None,
        cost=found.cost,
        audit=summary.audit if summary else None,
        targets=summary.targets if summary else (),
        caps=summary.caps if summary else (),
        workers=summary.workers if summary else (),
    )
    if not len(drawn.samples_B):
        return view
    chosen = np.empty(0, np.int64) if found.subset is None else found.subset.samples_B
    codes_N, sources = pool.sources.codes()
    by_source = summary.by_source if summary else composition(codes_N, sources, drawn.samples_B, chosen)
    selected_B = np.isin(drawn.samples_B, chosen)
    limit = limit_of(found.config.search, usable)
    return view.model_copy(
        update={
            "scored": len(drawn.samples_B),
            "selected": len(chosen),
            "influence": _influence(found, selected_B, usable),
            "search": search_view(drawn, selected_B, found.labels_N, codes_N, sources, limit),
            "composition": _composition(by_source),
            "lengths": _lengths(pool, usable_N, drawn, chosen),
            "samples": samples_view(pool, found.everything, chosen, subtasks, found.labels_N, texts),
        }
    )


def _influence(found: Evidence, selected_B: npt.NDArray[np.bool_], usable: int) -> Influence:
    drawn_B, everything_B = found.drawn.reward_B, found.everything.reward_B
    audited_B = found.everything.reward_B[found.everything.stage_B == "audit"]
    edges = value_edges(everything_B)
    median_drawn = median(drawn_B)
    by_influence = not found.config.targets and found.config.selection.normalise.kind == "none"
    assert median_drawn is not None, "nothing was drawn"
    return Influence(
        histogram=Histogram(
            edges=tuple(edges.tolist()),
            pool=None,
            drawn=counts(drawn_B, edges),
            selected=counts(drawn_B[selected_B], edges),
            audited=counts(audited_B, edges) if len(audited_B) else None,
        ),
        threshold=None if found.subset is None or not by_influence else found.subset.threshold,
        drawn_median=median_drawn,
        selected_median=median(drawn_B[selected_B]),
        undrawn=usable - len(found.drawn.samples_B) - len(found.drawn.failures),
    )


def _lengths(pool: TokenStore, usable_N: npt.NDArray[np.bool_], table: ScoreTable, chosen: IntArray) -> Lengths:
    lengths_N, drawn = pool.lengths_N, table.samples_B
    edges = length_edges(lengths_N[usable_N])
    return Lengths(
        histogram=Histogram(
            edges=tuple(edges.tolist()),
            pool=counts(lengths_N[usable_N], edges),
            drawn=counts(lengths_N[drawn], edges),
            selected=counts(lengths_N[chosen], edges),
        ),
        pool_median=median(lengths_N[usable_N]) or 0.0,
        drawn_median=median(lengths_N[drawn]) or 0.0,
        selected_median=median(lengths_N[chosen]),
        answers=lengths_of(pool, table, chosen),
    )


def _composition(shares: Sequence[Share]) -> Composition:
    shown, others = shares[:_SOURCES], shares[_SOURCES:]
    rest = Share(
        name=f"{len(others)} more",
        pool=sum(share.pool for share in others),
        scored=sum(share.scored for share in others),
        selected=sum(share.selected for share in others),
    )
    return Composition(
        sources=tuple(share.model_copy(update={"name": shortened(share.name)}) for share in shown),
        num_sources=len(shares),
        rest=rest if others else None,
    )


def _excluded(found: Evidence) -> dict[str, int]:
    reasons = [failure.reason for failure in (*found.pool.failures, *found.everything.failures)]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}
