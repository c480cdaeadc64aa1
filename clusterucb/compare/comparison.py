"""Allocators, features and budgets judged on one pool of which every reward is known.

Invariants: nothing is computed but simulated searches, so that a comparison costs seconds; a trial with the seed of a
run draws exactly what that run draws; costs follow `clusterucb.run.costs`, features and target included.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, TypeAdapter
from scipy.stats import rankdata  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from clusterucb import config
from clusterucb.compare.simulate import simulate
from clusterucb.errors import ConfigError
from clusterucb.features.clustering import Features, fit, resolve_k
from clusterucb.run.streams import Streams
from clusterucb.search.ledger import buys
from clusterucb.search.predictive import Knowledge
from clusterucb.types import IntArray

Real = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]

ALLOCATORS: tuple[str, ...] = tuple(
    cast(type[BaseModel], kind).model_fields["kind"].default for kind in get_args(get_args(config.Allocator)[0])
)
"""Names of all allocators."""
NO_FEATURES = "none"
"""Features of uniform draws and of the exhaustive reference, which look at none."""
MEAN = "mean"
"""Target of a trial's mean over several targets."""


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The exhaustive scoring of a pool of N samples, for one target or for M that share the draws."""

    rewards_N: Real
    """N, or N x M with several targets; NaN where a sample failed or could not be used."""
    usable_N: npt.NDArray[np.bool_]
    tokens_N: IntArray
    target_tokens: float = 0.0
    """Tokens of the target weighted by passes; every arm of a comparison pays them."""
    targets: tuple[str, ...] = ("",)
    """Their names; none where there is only one."""
    weights: tuple[float, ...] = (1.0,)

    @property
    def cost(self) -> float:
        """Tokens weighted by passes: one forward and one backward pass over every usable sample, and the target's."""
        return 2.0 * float(self.tokens_N[self.usable_N].sum()) + self.target_tokens


@dataclass(frozen=True, slots=True, eq=False)
class PoolFeatures:
    """What the pool is clustered by, and what it cost to have it."""

    name: str
    matrix_NF: Features
    usable_N: npt.NDArray[np.bool_]
    cost: float
    """Tokens weighted by passes; 0 where an earlier run has paid."""
    beside: Knowledge = field(default_factory=Knowledge)
    """What prediction sees besides the matrix."""
    match_cost: float = 0.0
    """What the target's own features cost, in the same tokens: prediction alone needs them."""

    @property
    def known(self) -> Knowledge:
        """Everything that prediction sees."""
        return self.beside.with_matrix(self.matrix_NF)


@dataclass(frozen=True, slots=True)
class Plan:
    """Every allocator with every budget and seed, on all features."""

    allocators: tuple[config.Allocator, ...]
    budgets: tuple[float, ...]
    seeds: tuple[int, ...]

    def size(self, num_features: int) -> int:
        """Return how many trials follow; the exhaustive one is always there."""
        return 1 + len(self.budgets) * len(self.seeds) * sum(
            1 if allocator.kind == "uniform" else num_features for allocator in self.allocators
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """One simulated search, judged by the rewards of the whole pool."""

    features: str
    allocator: str
    budget: float
    seed: int
    target: str
    """Whose top set it is; none where there is one target, `mean` for the mean of several."""
    clusters: int
    rounds: int
    gradients: float
    """Samples sent for scoring over usable samples."""
    recall: float
    """Share of the true top k that was drawn; k is what the configuration selects."""
    influence: float
    """Sum of the k best rewards drawn over the sum of the pool's k best."""
    spearman: float
    """Rank correlation, over all samples with a reward, between the true reward and the mean reward observed in the
    sample's own cluster (the mean of all draws where none of the cluster was observed). NaN without clusters, and for
    the mean of several targets."""
    cost: float
    """Tokens weighted by passes (features, target and draws) over those of the exhaustive scoring."""
    features_cost: float
    """What of it the features are."""


def plan_of(allocators: Sequence[str], budgets: Sequence[float], num_seeds: int, settings: config.RunConfig) -> Plan:
    """Check what is asked for; the configuration's own allocator keeps its settings, seeds count from its seed."""
    for name in allocators:
        if name not in ALLOCATORS:
            raise ConfigError(f"there is no allocator {name!r}: choose from {', '.join(ALLOCATORS)}")
    for budget in budgets:
        if not 0 < budget <= 1:
            raise ConfigError(f"budget {budget:g} is not a share of the pool: give numbers above 0 and up to 1")
    if not allocators or not budgets or num_seeds < 1:
        raise ConfigError(
            f"{len(allocators)} allocators, {len(budgets)} budgets and {num_seeds} seeds make no comparison: give at "
            f"least one of each"
        )
    own, any_of = settings.search.allocator, TypeAdapter[config.Allocator](config.Allocator)
    chosen = [name for name in dict.fromkeys(allocators) if name != "exhaustive"]  # that one is always there
    return Plan(
        allocators=tuple(own if own.kind == name else any_of.validate_python({"kind": name}) for name in chosen),
        budgets=tuple(sorted(set(budgets))),
        seeds=tuple(range(settings.seed, settings.seed + num_seeds)),
    )


def check_plan(plan: Plan, settings: config.RunConfig, num_usable: int) -> None:
    """Refuse, before anything expensive, budgets that do not cover the selection or the least cold start."""
    selected, least = settings.selection.size(num_usable), min(plan.budgets)
    if selected > buys(least, num_usable):
        raise ConfigError(
            f"the selection of {selected} samples exceeds what a budget of {least:g} buys of {num_usable}: lower "
            f"selection.share or selection.count, or leave that budget out"
        )
    if any(allocator.kind not in ("uniform", "predictive") for allocator in plan.allocators):
        k, start = resolve_k(settings.clusters, num_usable, least), settings.search.cold_start_min
        if min(num_usable, k * start) > buys(least, num_usable):
            raise ConfigError(
                f"a budget of {least:g} buys {buys(least, num_usable)} of {num_usable} samples, but the cold start of "
                f"{k} clusters draws at least {k * start}: lower clusters.k or leave that budget out"
            )


def trials(
    reference: Reference, features: Sequence[PoolFeatures], plan: Plan, settings: config.RunConfig
) -> Iterator[Trial]:
    """Yield the exhaustive trial, then uniform draws, then every other allocator on every kind of features.

    `settings` gives what the plan doesn't vary: clusters, cold start, rounds and the size of the selection.
    """
    if len(reference.targets) > 1:
        assert reference.rewards_N.shape[1:] == (len(reference.targets),), "rewards and targets differ"
    nothing = PoolFeatures(NO_FEATURES, np.empty((len(reference.rewards_N), 0)), reference.usable_N, 0.0)
    together_N = np.where(reference.usable_N, 0, -1).astype(np.int32)
    yield from _trials(reference, nothing, together_N, config.Exhaustive(), 1.0, plan.seeds[0], settings)
    clustered = [allocator for allocator in plan.allocators if allocator.kind != "uniform"]
    if len(clustered) < len(plan.allocators):
        for budget in plan.budgets:
            for seed in plan.seeds:
                yield from _trials(reference, nothing, together_N, config.Uniform(), budget, seed, settings)
    for kind in features if clustered else ():
        usable_N = reference.usable_N & kind.usable_N
        for seed in plan.seeds:
            labels: dict[int, Labels] = {}
            for budget in plan.budgets:
                k = resolve_k(settings.clusters, int(usable_N.sum()), budget)
                if k not in labels:
                    stream = Streams.of(seed).clusters
                    labels[k] = fit(kind.matrix_NF, k, settings.clusters, stream, usable_N).labels_N
                for allocator in clustered:
                    yield from _trials(reference, kind, labels[k], allocator, budget, seed, settings)


def _trials(
    reference: Reference,
    features: PoolFeatures,
    labels_N: Labels,
    allocator: config.Allocator,
    budget: float,
    seed: int,
    settings: config.RunConfig,
) -> Iterator[Trial]:
    """Yield what one search found: of several targets for each, and their mean."""
    search = settings.search.model_copy(update={"allocator": allocator, "budget": budget})
    usable = int((labels_N >= 0).sum())
    share = settings.selection.size(usable) / usable
    draws = Streams.of(seed).search
    run = simulate(reference.rewards_N, labels_N, search, share, draws, features.known, reference.weights)
    made = features.cost + (features.match_cost if isinstance(allocator, config.Predictive) else 0.0)
    tokens = float(reference.tokens_N[run.drawn].sum()) * (1 + run.ledger.failed / max(1, len(run.drawn)))
    columns = reference.rewards_N.reshape(len(reference.rewards_N), -1).T
    spearmans = [_spearman(column_N, labels_N, run.drawn) for column_N in columns]
    found = list(zip(reference.targets, run.recalls, run.influences, spearmans, strict=True))
    if len(found) > 1:
        found.append((MEAN, run.recall, run.influence, math.nan))
    for target, recall, influence, spearman in found:
        yield Trial(
            features=features.name,
            allocator=allocator.kind,
            budget=budget,
            seed=seed,
            target=target,
            clusters=int(labels_N.max()) + 1,
            rounds=run.rounds,
            gradients=run.ledger.planned / usable,
            recall=recall,
            influence=influence,
            spearman=spearman,
            cost=(2.0 * tokens + reference.target_tokens + made) / reference.cost,
            features_cost=made / reference.cost,
        )


def _spearman(rewards_N: Real, labels_N: Labels, drawn: IntArray) -> float:
    """Correlate the ranks of true rewards with those of the means observed in their clusters."""
    num_clusters = int(labels_N.max()) + 1
    if num_clusters < 2:
        return math.nan
    count_K = np.bincount(labels_N[drawn], minlength=num_clusters)
    sum_K = np.bincount(labels_N[drawn], weights=rewards_N[drawn], minlength=num_clusters)
    mean_K = np.where(count_K > 0, sum_K / np.maximum(count_K, 1), rewards_N[drawn].mean())
    rest = np.flatnonzero((labels_N >= 0) & np.isfinite(rewards_N))
    true, predicted = (cast(Real, rankdata(values)) for values in (rewards_N[rest], mean_K[labels_N[rest]]))
    spread = float(true.std() * predicted.std())
    return float(((true - true.mean()) * (predicted - predicted.mean())).mean() / spread) if spread > 0 else 0.0
