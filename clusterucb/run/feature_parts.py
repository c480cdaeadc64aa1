"""The parts of a run's features: what each is called, whose tokens it reads and what a pass of it costs.

A part is computed of the pool and, where it is matched with the target, of the target's examples in the same way.

A run has one kind of features or several side by side; each part is a stage of its own with a store, a journal and a
line in the ledger, all under its name. Invariant: names depend on a part's place alone, so that a resumed run, a plan
and a worker mean the same part by the same name.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from clusterucb.config import Feature, Features, MatchedFeatures, RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.run.disk import write_atomically
from clusterucb.run.part_names import NAMES, of_target
from clusterucb.types import Failure, IntArray

COMPUTED = frozenset({"hidden", "output_gradient", "proxy", "embedding"})
"""Kinds that workers compute in a stage of features; the others are brought, or are scores."""
BACKWARD = frozenset({"proxy"})
"""Of these, the kinds that take a backward pass too."""
OTHER_MODELS = frozenset({"proxy", "embedding"})
"""Kinds that are computed with a model of their own."""

_SHARES = "feature_shares.json"

Side = Literal["pool", "target"]
"""Whose rows features are of."""


@dataclass(frozen=True, slots=True)
class FeaturePart:
    """One kind of features in its place."""

    name: str
    features: Feature

    @property
    def computed(self) -> bool:
        """Whether workers compute it in a stage of its own."""
        return self.features.kind in COMPUTED

    def own_tokens(self, side: Side = "pool") -> str | None:
        """Name of the token store of a model with a tokenizer of its own; none where the run's tokens are read."""
        return f"{_named(self.name, side)}-tokens" if self.features.kind == "proxy" else None


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPart:
    """A part of a prepared run folder."""

    name: str
    features: Feature
    tokens: TokenStore
    """What its passes read; row n is sample n of the pool, or of the target."""
    share: float
    """What one of its passes costs, a token, where a pass through the run's model costs 1."""
    side: Side = "pool"

    @property
    def stage(self) -> str:
        """Name of its stage, its store and its line in the ledger."""
        return _named(self.name, self.side)

    @property
    def computed(self) -> bool:
        """Whether workers compute it in a stage of its own."""
        return self.features.kind in COMPUTED

    @property
    def backward(self) -> bool:
        """Whether it takes a backward pass."""
        return self.features.kind in BACKWARD

    def samples(self, rows: TokenStore) -> IntArray:
        """Return the samples of the pool, or of the target, that have tokens for this part."""
        return np.flatnonzero(rows.usable_N & self.tokens.usable_N)

    def failures(self, rows: TokenStore) -> tuple[Failure, ...]:
        """Return why its other usable samples have none."""
        return tuple(failure for failure in self.tokens.failures if rows.usable_N[failure.sample])


def feature_parts(features: Features) -> tuple[FeaturePart, ...]:
    """Name the parts; features that stand alone are the first."""
    kinds = features.parts if features.kind == "several" else (features,)
    return tuple(FeaturePart(name, kind) for name, kind in zip(NAMES, kinds, strict=False))


def parts_in_use(config: RunConfig) -> tuple[FeaturePart, ...]:
    """Return the parts that the run looks at: clusters come from the first, and only prediction sees the others."""
    match config.search.allocator.kind:
        case "uniform" | "exhaustive":
            return ()
        case "predictive":
            return feature_parts(config.features)
        case _:  # clusters that are brought need no features
            return () if config.clusters.path is not None else feature_parts(config.features)[:1]


def matched_in_use(config: RunConfig) -> tuple[FeaturePart, ...]:
    """Return the parts whose features are also computed of the target, for prediction alone sees how they match."""
    if config.search.allocator.kind != "predictive":
        return ()
    return tuple(
        part for part in parts_in_use(config) if isinstance(part.features, MatchedFeatures) and part.features.match
    )


def save_shares(state: Path, shares: dict[str, float]) -> Path:
    """Keep what passes cost, by the name of their part, and return the file."""
    path = state / _SHARES
    write_atomically(path, json.dumps(shares))
    return path


def prepared_parts(config: RunConfig, pool: TokenStore) -> tuple[PreparedPart, ...]:
    """Open the parts in use of the run folder that holds `pool`."""
    return _prepared(parts_in_use(config), pool, "pool")


def prepared_matches(config: RunConfig, target: TokenStore) -> tuple[PreparedPart, ...]:
    """Open the same of `target`, for the parts that are matched with it."""
    return _prepared(matched_in_use(config), target, "target")


def _prepared(parts: tuple[FeaturePart, ...], rows: TokenStore, side: Side) -> tuple[PreparedPart, ...]:
    state = rows.folder.parent
    shares: dict[str, float] = json.loads((state / _SHARES).read_text(encoding="utf-8")) if parts else {}

    def tokens(part: FeaturePart) -> TokenStore:
        own = part.own_tokens(side)
        return rows if own is None else TokenStore.open(state / own)

    return tuple(PreparedPart(part.name, part.features, tokens(part), shares[part.name], side) for part in parts)


def _named(name: str, side: Side) -> str:
    return name if side == "pool" else of_target(name)
