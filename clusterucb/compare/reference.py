"""The run folders that a comparison computes once: an exhaustive run, and a folder for every kind of features.

Invariant: their configurations leave out everything that a comparison varies or that only a selection needs, so that
other allocators, budgets, cluster counts and selection sizes find them finished.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from clusterucb.compare.comparison import PoolFeatures, Reference
from clusterucb.config import (
    Audit,
    Clusters,
    Exhaustive,
    Feature,
    Features,
    GivenFeatures,
    GradientFeatures,
    HiddenFeatures,
    OutputGradientFeatures,
    Predictive,
    RunConfig,
    Search,
    Selection,
)
from clusterucb.errors import ConfigError, RunFolderError
from clusterucb.run.costs import saved_costs, weighted_tokens
from clusterucb.run.feature_parts import feature_parts
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.matching import target_means
from clusterucb.run.part_names import NAMES, of_target
from clusterucb.run.prepared import open_prepared
from clusterucb.run.prior_knowledge import known_beside, sources_of
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import ScoreArchive
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.shared_scores import rewards_BM
from clusterucb.run.target_columns import target_columns
from clusterucb.run.target_stage import load_bank
from clusterucb.search.predictive import Columns, Knowledge

GRADIENT = "gradient"
"""Sketches of this checkpoint's gradients: the reference has them, at the price of a gradient pass over the pool."""
_KINDS = ("hidden", "output_gradient", GRADIENT, "earlier", "proxy", "embedding", "given")
EARLIER = "earlier"
"""Sketches that `features.path` brings from an earlier checkpoint: free in this period."""


def default_kinds(config: RunConfig) -> tuple[str, ...]:
    """Name the configuration's own features, its parts joined by `+`, and gradients where there are sketches."""
    own = "+".join(_own(config.features))
    return tuple(dict.fromkeys([own, *([] if config.gradients.sketch.kind == "none" else [GRADIENT])]))


def parts_of(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the parts that features are made of, each once: `hidden+proxy` are clusters of hidden states, and
    prediction from both."""
    return tuple(dict.fromkeys(part for kind in kinds for part in kind.split("+")))


def check_kinds(kinds: Sequence[str], config: RunConfig) -> None:
    """Refuse features that the configuration does not describe."""
    for kind in parts_of(kinds):
        if kind == GRADIENT and config.gradients.sketch.kind == "none":
            raise ConfigError("features are gradients but gradients.sketch is none: use the hash sketch")
        if kind != GRADIENT:
            _described(kind, config)


def reference_config(config: RunConfig) -> RunConfig:
    """Return the run that scores the whole pool."""
    return _bare(config, Search(allocator=Exhaustive()), HiddenFeatures())


def feature_config(config: RunConfig, kind: str) -> RunConfig:
    """Return the run that makes one part of the features."""
    return _bare(config, Search(budget=1.0, allocator=Predictive()), _described(kind, config))  # it sees all of it


def read_reference(folder: RunFolder) -> Reference:
    """Read every reward of a finished exhaustive run."""
    pool, _ = open_prepared(folder)
    table = _table(folder)
    targets = target_columns(folder.read_config(), load_bank(folder.state).subtasks)
    rewards_NM = np.full((pool.num_samples, len(targets)), np.nan)
    rewards_NM[table.samples_B] = rewards_BM(table, targets)
    rewards_N = rewards_NM[:, 0].copy() if len(targets) == 1 else rewards_NM
    examples = (weighted_tokens(cost) for cost in saved_costs(folder) if cost.stage == "target")
    names, weights = tuple(each.name for each in targets), tuple(each.weight for each in targets)
    return Reference(rewards_N, pool.usable_N, pool.lengths_N, sum(examples), names, weights)


def read_features(kind: str, folders: Mapping[str, RunFolder], reference: RunFolder) -> PoolFeatures:
    """Read features, part by part, from the folder of each; gradients come from the reference and are kept there."""
    first, *others = (_read_part(part, folders[part], reference) for part in kind.split("+"))
    return replace(
        first,
        name=kind,
        cost=first.cost + sum(part.cost for part in others),
        match_cost=first.match_cost + sum(part.match_cost for part in others),
        beside=Knowledge(
            tuple(part.matrix_NF for part in others),
            tuple(columns for part in (first, *others) for columns in part.beside.columns),
            first.beside.factors,
        ),
    )


def _read_part(kind: str, folder: RunFolder, reference: RunFolder) -> PoolFeatures:
    pool, _ = open_prepared(reference)
    if kind == GRADIENT:
        store = FeatureStore(folder.path, pool.num_samples)
        if not store.complete:
            folder.path.mkdir(parents=True, exist_ok=True)
            store.write(ScoreArchive(reference.state).sketches(), _table(reference).failures)
        cost, match_cost = 2.0 * float(pool.lengths_N[pool.usable_N].sum()), 0.0
    else:
        if open_prepared(folder)[0].fingerprint != pool.fingerprint:
            raise RunFolderError(
                f"the pool has changed since {folder.path} or {reference.path} was computed: delete both, or give "
                f"another folder with --out"
            )
        store = FeatureStore(folder.state, pool.num_samples)
        cost, match_cost = (
            sum(weighted_tokens(cost) for cost in saved_costs(folder) if cost.stage in stages)
            for stages in (NAMES, tuple(map(of_target, NAMES)))
        )
    usable_N = pool.usable_N.copy()
    usable_N[[failure.sample for failure in store.failures()]] = False
    columns: tuple[Columns, ...] = ()
    if kind != GRADIENT:
        config, bank = folder.read_config(), load_bank(reference.state)
        part = feature_parts(config.features)[0]
        matrix_NF = store.matrix()
        targets = target_columns(config, bank.subtasks)
        wanted, _ = target_means(config, open_prepared(folder)[1], folder, bank.subtasks)
        known = (part.features, part.name, folder.state, config.gradients, matrix_NF, bank, targets)
        columns = known_beside(*known, wanted.get(part.name)).columns
    return PoolFeatures(kind, store.matrix(), usable_N, cost, Knowledge((), columns, (sources_of(pool),)), match_cost)


def _table(reference: RunFolder) -> ScoreTable:
    return ScoreTable.of(ScoreArchive(reference.state), len(load_bank(reference.state).subtasks))


def _bare(config: RunConfig, search: Search, features: Features) -> RunConfig:
    rest = {"clusters": Clusters(k=1), "selection": Selection(), "audit": Audit(samples=0)}
    changed = config.model_copy(update={"search": search, "features": features, **rest})
    return RunConfig.model_validate(changed.model_dump())


def _own(features: Features) -> dict[str, Feature]:
    """Name the parts that a configuration describes: by kind, and by number where a kind comes again."""
    named: dict[str, Feature] = {}
    for part in feature_parts(features):
        kind = EARLIER if _brings_sketches(part.features) else part.features.kind
        same = sum(name.partition("-")[0] == kind for name in named)
        named[f"{kind}-{same + 1}" if same else kind] = part.features
    return named


def _described(kind: str, config: RunConfig) -> Feature:
    own = _own(config.features)
    if kind in own and kind != GRADIENT:
        return own[kind]
    match kind:
        case "hidden":
            return HiddenFeatures()
        case "output_gradient":
            return OutputGradientFeatures()
        case "given":
            return GivenFeatures()
        case "proxy":
            raise ConfigError("features of kind proxy need a smaller model: set features.kind and features.base")
        case "embedding":
            raise ConfigError("features of kind embedding need an encoder: set features.kind and features.encoder")
        case "earlier":
            raise ConfigError(
                "earlier features are sketches of an earlier checkpoint: set features.kind to gradient and "
                "features.path to the run that holds them"
            )
        case _:
            raise ConfigError(f"there are no features {kind!r}: choose from {', '.join(_KINDS)}, or join some by +")


def _brings_sketches(features: Feature) -> bool:
    return isinstance(features, GradientFeatures) and features.path is not None
