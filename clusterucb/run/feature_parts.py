"""The parts of a run's features: what each is called, whose tokens it reads and what a pass of it costs.

A run has one kind of features or several side by side; each part is a stage of its own with a store, a journal and a
line in the ledger, all under its name. Invariant: names depend on a part's place alone, so that a resumed run, a plan
and a worker mean the same part by the same name.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clusterucb.config import Feature, Features, RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.run.disk import write_atomically
from clusterucb.run.part_names import NAMES
from clusterucb.types import Failure, IntArray

COMPUTED = frozenset({"hidden", "output_gradient", "proxy", "embedding"})
"""Kinds that workers compute in a stage of features; the others are brought, or are scores."""
BACKWARD = frozenset({"proxy"})
"""Of these, the kinds that take a backward pass too."""
OTHER_MODELS = frozenset({"proxy", "embedding"})
"""Kinds that are computed with a model of their own."""

_SHARES = "feature_shares.json"


@dataclass(frozen=True, slots=True)
class FeaturePart:
    """One kind of features in its place."""

    name: str
    features: Feature

    @property
    def computed(self) -> bool:
        """Whether workers compute it in a stage of its own."""
        return self.features.kind in COMPUTED

    @property
    def own_tokens(self) -> str | None:
        """Name of the token store of a model with a tokenizer of its own; none where the pool's tokens are read."""
        return f"{self.name}-tokens" if self.features.kind == "proxy" else None


@dataclass(frozen=True, slots=True, eq=False)
class PreparedPart:
    """A part of a prepared run folder."""

    name: str
    features: Feature
    tokens: TokenStore
    """What its passes read; row n is sample n of the pool."""
    share: float
    """What one of its passes costs, a token, where a pass through the run's model costs 1."""

    @property
    def computed(self) -> bool:
        """Whether workers compute it in a stage of its own."""
        return self.features.kind in COMPUTED

    @property
    def backward(self) -> bool:
        """Whether it takes a backward pass."""
        return self.features.kind in BACKWARD

    def samples(self, pool: TokenStore) -> IntArray:
        """Return the samples of the pool that have tokens for this part."""
        return np.flatnonzero(pool.usable_N & self.tokens.usable_N)

    def failures(self, pool: TokenStore) -> tuple[Failure, ...]:
        """Return why the other usable samples of the pool have none."""
        return tuple(failure for failure in self.tokens.failures if pool.usable_N[failure.sample])


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


def save_shares(state: Path, shares: dict[str, float]) -> Path:
    """Keep what passes cost, by the name of their part, and return the file."""
    path = state / _SHARES
    write_atomically(path, json.dumps(shares))
    return path


def prepared_parts(config: RunConfig, pool: TokenStore) -> tuple[PreparedPart, ...]:
    """Open the parts in use of the run folder that holds `pool`."""
    state = pool.folder.parent
    parts = parts_in_use(config)
    shares: dict[str, float] = json.loads((state / _SHARES).read_text(encoding="utf-8")) if parts else {}

    def tokens(part: FeaturePart) -> TokenStore:
        return TokenStore.open(state / part.own_tokens) if part.own_tokens else pool

    return tuple(PreparedPart(part.name, part.features, tokens(part), shares[part.name]) for part in parts)
