"""A recorded table in place of a reference run: rewards, features and lengths of a pool in one `.npz` file.

Arrays, N rows each: `influence_<target>` (N, S), one column a subtask; `sketch` or `hidden` or both (N, F);
`num_tokens` (N,) where costs should count tokens rather than samples; `id` (N,) where two tables meet. For prediction
also `source` (N,), and `target_sketch_<target>` (S, F), which a later checkpoint's target has in the sketch's space.

Any other features are `features_<name>` (N, F), and `passes_<name>` (one number) says what they cost: passes over the
pool's tokens, one through the whole model being 1. `target_<name>_<target>` (S, F) are the target's own features of
that name; the part `match-<name>` stands for their products with the pool's.

Features are named by their parts, joined by `+`: `earlier+influence+match` are an earlier table's sketches and its
influence on the same target, and the products of its sketches with this table's target. Clusters come from the first
part alone; prediction sees all of them.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from clusterucb.compare.comparison import PoolFeatures, Reference
from clusterucb.errors import DataError
from clusterucb.search.predictive import Columns, Factor, Knowledge
from clusterucb.types import IntArray

_INFLUENCE, _TARGET_SKETCH = "influence_", "target_sketch_"
_FEATURES, _COST, _MATCH = "features_", "passes_", "match-"
_ARRAYS = {"hidden": "hidden", "gradient": "sketch"}
"""Array that holds each kind of features."""
_PASSES = {"hidden": 1.0, "gradient": 2.0}
"""Passes over the pool that each kind costs: forward only, or forward and backward."""
_BESIDE = ("influence", "match", "source")
"""Parts that only prediction sees: they cannot be clustered."""


def _named(part: str, earlier: "RecordedTable | None") -> "RecordedTable":
    if earlier is None:
        raise DataError(f"{part} features come from an earlier table: name it with --earlier")
    return earlier


class RecordedTable:
    """A table on disk; arrays are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        try:
            found: Any = np.load(path, allow_pickle=False)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is not a readable .npz table ({error}): name one written by numpy.savez") from None
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds one array, not a table: name a .npz file")
        self.path = path
        self._arrays = cast(Mapping[str, npt.NDArray[Any]], found)
        self._names = tuple(self._arrays)

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets whose influence was recorded."""
        return tuple(name.removeprefix(_INFLUENCE) for name in self._names if name.startswith(_INFLUENCE))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Features that were recorded."""
        further = (name.removeprefix(_FEATURES) for name in self._names if name.startswith(_FEATURES))
        return (*(kind for kind, name in _ARRAYS.items() if name in self._names), *further)

    def target(self, name: str | None) -> str:
        """Return the target of that name, which may be left out where there is only one."""
        if name is None and len(self.targets) == 1:
            return self.targets[0]
        if name not in self.targets:
            raise DataError(
                f"{self.path} holds influence on {', '.join(self.targets) or 'no target'}: choose one with --target"
            )
        return name

    def influence(self, target: str | None) -> npt.NDArray[Any]:
        """Return the influence on each subtask of a target, N x S."""
        influence_NS = self._read(f"{_INFLUENCE}{self.target(target)}")
        return influence_NS[:, None] if influence_NS.ndim == 1 else influence_NS

    def target_sketches(self, target: str) -> npt.NDArray[Any]:
        """Return the sketch of each subtask of a target, S x F."""
        if f"{_TARGET_SKETCH}{target}" not in self._names:
            raise DataError(f"{self.path} holds no {_TARGET_SKETCH}{target}: leave the part `match` out")
        return self._read(f"{_TARGET_SKETCH}{target}")

    def sources(self) -> IntArray:
        """Return where each sample comes from, as a number."""
        if "source" not in self._names:
            raise DataError(f"{self.path} holds no source: leave the part `source` out")
        return np.unique(self._read("source"), return_inverse=True)[1].astype(np.int64)

    def reference(self, target: str | None) -> Reference:
        """Return the rewards for a target, which may be left out where there is only one, or for several that share
        the draws, joined by `+`."""
        names = self._several(target)
        rewards_NM = np.stack([self.influence(name).max(axis=1).astype(np.float64) for name in names], axis=1)
        tokens_N = self._tokens_N(len(rewards_NM))
        usable_N = np.ones(len(rewards_NM), np.bool_)
        if len(names) == 1:
            return Reference(np.ascontiguousarray(rewards_NM[:, 0]), usable_N, tokens_N)
        return Reference(rewards_NM, usable_N, tokens_N, 0.0, names, (1.0,) * len(names))

    def _several(self, target: str | None) -> tuple[str, ...]:
        return (self.target(None),) if target is None else tuple(self.target(name) for name in target.split("+"))

    def _passes(self, kind: str) -> float:
        if kind in _PASSES:
            return _PASSES[kind]
        if f"{_COST}{kind}" not in self._names:
            raise DataError(f"{self.path} does not say what {kind} features cost: add {_COST}{kind}, one number")
        return float(self._read(f"{_COST}{kind}"))

    def features(self, kind: str) -> PoolFeatures:
        """Return features of this checkpoint."""
        if kind not in self.kinds:
            raise DataError(
                f"{self.path} holds no features {kind!r}: choose from {', '.join(self.kinds) or 'none: there are none'}"
            )
        matrix_NF = self._read(_ARRAYS.get(kind, f"{_FEATURES}{kind}"))
        cost = self._passes(kind) * float(self._tokens_N(len(matrix_NF)).sum())
        return PoolFeatures(kind, matrix_NF, np.ones(len(matrix_NF), np.bool_), cost)

    def earlier_features(self, later: "RecordedTable") -> PoolFeatures:
        """Return this table's sketches as the features of a later checkpoint's period, in which they are free."""
        sketches = self.features("gradient")
        if self._pool() != later._pool():
            raise DataError(f"{self.path} and {later.path} hold other samples, or in another order: record one pool")
        return PoolFeatures("earlier", sketches.matrix_NF, sketches.usable_N, 0.0)

    def described(self, parts: str, target: str | None, earlier: "RecordedTable | None") -> PoolFeatures:
        """Return the features that parts joined by `+` name; `earlier` is the table of an earlier checkpoint."""
        first, *rest = parts.split("+")
        base = self._matrix(first, earlier)
        more = [self._matrix(part, earlier) for part in rest if part not in _BESIDE and not part.startswith(_MATCH)]
        columns: list[Columns] = []
        factors: list[Factor] = []
        for part in rest:
            if part == "source":
                factors.append(Factor(part, self.sources()))
            elif part in _BESIDE or part.startswith(_MATCH):
                for name in self._several(target):
                    columns.append(Columns(f"{part} {name}", self._column(part, name, earlier)))
        beside = Knowledge(tuple(each.matrix_NF for each in more), tuple(columns), tuple(factors))
        usable_N = np.logical_and.reduce([base.usable_N, *(each.usable_N for each in more)])
        return PoolFeatures(parts, base.matrix_NF, usable_N, base.cost + sum(each.cost for each in more), beside)

    def _matrix(self, part: str, earlier: "RecordedTable | None") -> PoolFeatures:
        return _named(part, earlier).earlier_features(self) if part == "earlier" else self.features(part)

    def _column(self, part: str, target: str | None, earlier: "RecordedTable | None") -> npt.NDArray[np.float64]:
        if part.startswith(_MATCH):
            return self._products(part.removeprefix(_MATCH), self.target(target))
        before = _named(part, earlier)
        sketches_ND = before.earlier_features(self).matrix_NF  # checks that both hold one pool
        if part == "influence":
            return before.influence(self.target(target)).astype(np.float64)
        wanted_SD = self.target_sketches(self.target(target)).astype(np.float64)
        if wanted_SD.shape[1] != sketches_ND.shape[1]:
            raise DataError(
                f"{before.path} has sketches of {sketches_ND.shape[1]} numbers, {self.path} a target of "
                f"{wanted_SD.shape[1]}: leave the part `match` out"
            )
        return sketches_ND.astype(np.float64) @ wanted_SD.T

    def _products(self, kind: str, target: str) -> npt.NDArray[np.float64]:
        name = f"target_{kind}_{target}"
        if name not in self._names:
            raise DataError(f"{self.path} holds no {name}: leave the part {_MATCH}{kind} out")
        return self.features(kind).matrix_NF.astype(np.float64) @ self._read(name).astype(np.float64).T

    def _pool(self) -> list[Any]:
        """Return the ids, or one number a row where there are none."""
        if "id" in self._names:
            return self._read("id").tolist()
        return list(range(len(self._read(self._names[0]))))

    def _tokens_N(self, num_samples: int) -> IntArray:
        if "num_tokens" not in self._names:
            return np.ones(num_samples, np.int64)
        return self._read("num_tokens").astype(np.int64)

    def _read(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name]
