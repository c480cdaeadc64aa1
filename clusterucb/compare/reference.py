"""The run folders that a comparison computes once: an exhaustive run, and a folder for every kind of features.

Invariant: their configurations leave out everything that a comparison varies or that only a selection needs, so that
other allocators, budgets, cluster counts and selection sizes find them finished.
"""

from collections.abc import Sequence

import numpy as np

from clusterucb.compare.comparison import PoolFeatures, Reference
from clusterucb.config import (
    Audit,
    Clusters,
    Exhaustive,
    Features,
    GivenFeatures,
    GradientFeatures,
    HiddenFeatures,
    RunConfig,
    Search,
    Selection,
)
from clusterucb.errors import ConfigError, RunFolderError
from clusterucb.run.costs import saved_costs, weighted_tokens
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.preparation import open_prepared
from clusterucb.run.prior_knowledge import known_beside
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import ScoreArchive
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.target_stage import load_bank

GRADIENT = "gradient"
"""Sketches of this checkpoint's gradients: the reference has them, at the price of a gradient pass over the pool."""
EARLIER = "earlier"
"""Sketches that `features.path` brings from an earlier checkpoint: free in this period."""


def default_kinds(config: RunConfig) -> tuple[str, ...]:
    """Name the configuration's own features, and gradients where there are sketches."""
    own = EARLIER if _brings_sketches(config.features) else config.features.kind
    return tuple(dict.fromkeys([own, *([] if config.gradients.sketch.kind == "none" else [GRADIENT])]))


def check_kinds(kinds: Sequence[str], config: RunConfig) -> None:
    """Refuse features that the configuration does not describe."""
    for kind in kinds:
        if kind == GRADIENT and config.gradients.sketch.kind == "none":
            raise ConfigError("features are gradients but gradients.sketch is none: use the hash sketch")
        if kind != GRADIENT:
            _described(kind, config)


def reference_config(config: RunConfig) -> RunConfig:
    """Return the run that scores the whole pool."""
    return _bare(config, Search(allocator=Exhaustive()), HiddenFeatures())


def feature_config(config: RunConfig, kind: str) -> RunConfig:
    """Return the run that makes features of one kind."""
    return _bare(config, Search(budget=1.0), _described(kind, config))


def read_reference(folder: RunFolder) -> Reference:
    """Read every reward of a finished exhaustive run."""
    pool, _ = open_prepared(folder)
    table = _table(folder)
    rewards_N = np.full(pool.num_samples, np.nan)
    rewards_N[table.samples_B] = table.reward_B
    target = (weighted_tokens(cost) for cost in saved_costs(folder) if cost.stage == "target")
    return Reference(rewards_N, pool.usable_N, pool.lengths_N, sum(target))


def read_features(kind: str, folder: RunFolder, reference: RunFolder) -> PoolFeatures:
    """Read the features of one kind from their folder; gradients come from the reference and are kept there."""
    pool, _ = open_prepared(reference)
    if kind == GRADIENT:
        store = FeatureStore(folder.path, pool.num_samples)
        if not store.complete:
            folder.path.mkdir(parents=True, exist_ok=True)
            store.write(ScoreArchive(reference.state).sketches(), _table(reference).failures)
        cost = 2.0 * float(pool.lengths_N[pool.usable_N].sum())
    else:
        if open_prepared(folder)[0].fingerprint != pool.fingerprint:
            raise RunFolderError(
                f"the pool has changed since {folder.path} or {reference.path} was computed: delete both, or give "
                f"another folder with --out"
            )
        store = FeatureStore(folder.state, pool.num_samples)
        cost = sum(weighted_tokens(cost) for cost in saved_costs(folder) if cost.stage == "features")
    usable_N = pool.usable_N.copy()
    usable_N[[failure.sample for failure in store.failures()]] = False
    beside = known_beside(kind == EARLIER, store.matrix(), pool, load_bank(reference.state))
    return PoolFeatures(kind, store.matrix(), usable_N, cost, beside)


def _table(reference: RunFolder) -> ScoreTable:
    return ScoreTable.of(ScoreArchive(reference.state), len(load_bank(reference.state).subtasks))


def _bare(config: RunConfig, search: Search, features: Features) -> RunConfig:
    rest = {"clusters": Clusters(k=1), "selection": Selection(), "audit": Audit(samples=0)}
    changed = config.model_copy(update={"search": search, "features": features, **rest})
    return RunConfig.model_validate(changed.model_dump())


def _described(kind: str, config: RunConfig) -> Features:
    own = config.features
    if kind == EARLIER and _brings_sketches(own):
        return own
    if kind == own.kind and kind != GRADIENT:
        return own
    match kind:
        case "hidden":
            return HiddenFeatures()
        case "given":
            return GivenFeatures()
        case "embedding":
            raise ConfigError("features of kind embedding need an encoder: set features.kind and features.encoder")
        case "earlier":
            raise ConfigError(
                "earlier features are sketches of an earlier checkpoint: set features.kind to gradient and "
                "features.path to the run that holds them"
            )
        case _:
            raise ConfigError(
                f"there are no features {kind!r}: choose from hidden, gradient, earlier, embedding and given"
            )


def _brings_sketches(features: Features) -> bool:
    return isinstance(features, GradientFeatures) and features.path is not None
