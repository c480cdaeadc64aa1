"""`summary.json`: what was chosen, from what, at which cost, and how much was missed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from clusterucb.audit import AuditEstimate
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import RunFolderError
from clusterucb.run.costs import CostLedger
from clusterucb.run.gating import GateCount
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.until_result import UntilResult
from clusterucb.selection import SelectedSubset
from clusterucb.selection.length_bias import STRONG, Quantiles, rank_correlation
from clusterucb.types import IntArray, WorkerInfo


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Share(_Part):
    """One group of samples (a source, a cluster) in the pool, among the scored and in the selection."""

    name: str
    pool: int
    scored: int
    selected: int


class LengthQuantiles(_Part):
    """Of answers, in tokens with loss."""

    p10: float
    p25: float
    median: float
    p75: float
    p90: float


class Lengths(_Part):
    """How long the answers are: gradient influence is known to favour short ones, so every run looks at it."""

    pool: LengthQuantiles
    scored: LengthQuantiles
    selected: LengthQuantiles | None
    """None where nothing is selected yet."""
    rank_correlation: float | None
    """Spearman's, of influence and answer length over what was scored; None where one of them does not vary."""
    strong: bool
    """Whether it is 0.3 or more either way."""


class CapOutcome(_Part):
    """What one of `selection.caps` did."""

    cap: str
    limit: int
    """Samples that one group may have."""
    full: int
    """Groups that have as many."""
    left_out: int
    """Samples passed over because their group was full, of those that rank above the last one taken."""
    most: tuple[tuple[str, int], ...]
    """Groups with the most of these, at most five."""


class Recall(_Part):
    """The audit's estimate of how much of the true top set was scored."""

    recall: float
    low: float
    high: float
    confidence: float
    audited: int


class TargetOutcome(_Part):
    """One of several targets: what was selected for it alone, and how much of its own top set was scored."""

    name: str
    weight: float
    subtasks: tuple[str, ...]
    selected: int
    threshold: float
    in_joint: int
    """Of these, how many the joint selection has too."""
    audit: Recall | None
    caps: tuple[CapOutcome, ...] = ()
    label_tokens: Lengths


class Gradients(_Part):
    """How the pool's scores came about."""

    computed: int
    """Gradients that this run took."""
    reused: int
    """Samples whose sketches were taken from the store instead."""
    exact: int
    """Scored samples whose influence is of the gradient itself; the others' is of its sketch."""


class WorkerUse(_Part):
    """What one worker ran on and its peak memory."""

    device: str
    peak_host_gib: float
    peak_device_gib: float


class Summary(_Part):
    """The end of a run."""

    run: str
    pool: int
    usable: int
    truncated: int
    excluded: dict[str, int]
    gates: tuple[GateCount, ...] = ()
    """Copies, near-copies and held-out rows: found in the pool, and left by the gates."""
    target_examples: int
    subtasks: tuple[str, ...]
    scored: int
    selected: int
    asked: int
    """Samples that were to be selected: more than `selected` where the caps leave fewer."""
    caps: tuple[CapOutcome, ...] = ()
    threshold: float
    by_source: tuple[Share, ...]
    by_cluster: tuple[Share, ...]
    label_tokens: Lengths
    audit: Recall | None
    """None with several targets: each has its own."""
    until: UntilResult | None = None
    """How `search.until` ended; the audit is then that of its last look."""
    targets: tuple[TargetOutcome, ...]
    """Of several targets."""
    gradients: Gradients
    cost: CostLedger
    workers: tuple[WorkerUse, ...]


def read_summary(folder: RunFolder) -> Summary:
    """Return the summary of a finished run. Raises RunFolderError where it is not one of this version."""
    try:
        return Summary.model_validate_json(folder.bring(folder.summary_file).read_bytes())
    except ValueError as error:
        first = str(error).partition("\n")[0]
        raise RunFolderError(
            f"{folder.location}/summary.json is damaged or of another version ({first}): run again in a new folder"
        ) from None


def composition(
    codes_N: npt.NDArray[np.int32], names: Sequence[str], scored: IntArray, chosen: IntArray
) -> tuple[Share, ...]:
    """Count groups (code -1: none) in pool, scored and selected samples; the most selected first."""

    def count(codes: npt.NDArray[np.int32]) -> list[int]:
        return np.bincount(codes[codes >= 0], minlength=len(names)).tolist()

    counts = zip(names, count(codes_N), count(codes_N[scored]), count(codes_N[chosen]), strict=True)
    shares = [Share(name=name, pool=pool, scored=among, selected=selected) for name, pool, among, selected in counts]
    return tuple(sorted(shares, key=lambda share: (-share.selected, -share.scored, share.name)))


def recall_of(audit: AuditEstimate | None) -> Recall | None:
    """Put an audit's estimate into the summary's form."""
    if audit is None:
        return None
    return Recall(
        recall=audit.recall, low=audit.low, high=audit.high, confidence=audit.confidence, audited=audit.audited
    )


def cap_uses(subset: SelectedSubset) -> tuple[CapOutcome, ...]:
    """Put what the caps did into the summary's form."""
    return tuple(CapOutcome(**asdict(use)) for use in subset.caps)


def lengths_of(pool: TokenStore, scored: ScoreTable, chosen: IntArray) -> Lengths:
    """Look at the answers' lengths in the pool, among the scored and the selected."""
    lengths_N = pool.label_counts_N

    def quantiles(lengths: IntArray) -> LengthQuantiles:
        return LengthQuantiles(**asdict(Quantiles.of(lengths)))

    correlation = rank_correlation(scored.reward_B, lengths_N[scored.samples_B])
    return Lengths(
        pool=quantiles(lengths_N[pool.usable_N]),
        scored=quantiles(lengths_N[scored.samples_B]),
        selected=quantiles(lengths_N[chosen]) if len(chosen) else None,
        rank_correlation=correlation,
        strong=correlation is not None and abs(correlation) >= STRONG,
    )


def summarise(
    run: str,
    pool: TokenStore,
    target: TokenStore,
    subtasks: tuple[str, ...],
    labels_N: npt.NDArray[np.int32] | None,
    drawn: ScoreTable,
    everything: ScoreTable,
    exact_B: npt.NDArray[np.bool_],
    subset: SelectedSubset,
    audit: AuditEstimate | None,
    targets: tuple[TargetOutcome, ...],
    cost: CostLedger,
    workers: Iterable[WorkerInfo],
    gates: tuple[GateCount, ...] = (),
    until: UntilResult | None = None,
) -> Summary:
    """Put a finished run into words and numbers."""
    excluded = Counter(failure.reason for failure in (*pool.failures, *everything.failures))
    clusters: tuple[Share, ...] = ()
    if labels_N is not None:
        names = [str(cluster) for cluster in range(int(labels_N.max()) + 1)]
        clusters = composition(labels_N, names, drawn.samples_B, subset.samples_B)
    return Summary(
        run=run,
        pool=pool.num_samples,
        usable=int(pool.usable_N.sum()),
        truncated=pool.num_truncated,
        excluded=dict(sorted(excluded.items())),
        gates=gates,
        until=until,
        target_examples=int(target.usable_N.sum()),
        subtasks=subtasks,
        scored=len(drawn.samples_B),
        selected=len(subset),
        asked=subset.asked or len(subset),
        caps=cap_uses(subset),
        threshold=subset.threshold,
        by_source=composition(*pool.sources.codes(), drawn.samples_B, subset.samples_B),
        by_cluster=clusters,
        label_tokens=lengths_of(pool, drawn, subset.samples_B),
        audit=recall_of(audit),
        targets=targets,
        gradients=Gradients(
            computed=int((~everything.reused_B).sum()) + len(everything.failures),
            reused=int(everything.reused_B.sum()),
            exact=int(exact_B.sum()),
        ),
        cost=cost,
        workers=tuple(
            WorkerUse(device=info.device, peak_host_gib=info.peak_host_gib, peak_device_gib=info.peak_device_gib)
            for info in workers
        ),
    )
