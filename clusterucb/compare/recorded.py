"""A recorded table in place of a reference run: rewards, features and lengths of a pool in one `.npz` file.

Arrays, N rows each: `influence_<target>` (N, S), one column a subtask; `sketch` or `hidden` or both (N, F);
`num_tokens` (N,) where costs should count tokens rather than samples; `id` (N,) where two tables meet.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from clusterucb.compare.comparison import PoolFeatures, Reference
from clusterucb.errors import DataError
from clusterucb.types import IntArray

_INFLUENCE = "influence_"
_ARRAYS = {"hidden": "hidden", "gradient": "sketch"}
"""Array that holds each kind of features."""
_PASSES = {"hidden": 1.0, "gradient": 2.0}
"""Passes over the pool that each kind costs: forward only, or forward and backward."""


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
        return tuple(kind for kind, name in _ARRAYS.items() if name in self._names)

    def reference(self, target: str | None) -> Reference:
        """Return the rewards for a target, which may be left out where there is only one."""
        if target is None and len(self.targets) == 1:
            target = self.targets[0]
        if target not in self.targets:
            raise DataError(
                f"{self.path} holds influence on {', '.join(self.targets) or 'no target'}: choose one with --target"
            )
        influence_NS = self._read(f"{_INFLUENCE}{target}")
        if influence_NS.ndim == 1:
            influence_NS = influence_NS[:, None]
        rewards_N: npt.NDArray[np.float64] = influence_NS.max(axis=1).astype(np.float64)
        return Reference(rewards_N, np.ones(len(rewards_N), np.bool_), self._tokens_N(len(rewards_N)))

    def features(self, kind: str) -> PoolFeatures:
        """Return features of this checkpoint."""
        if kind not in self.kinds:
            raise DataError(
                f"{self.path} holds no features {kind!r}: choose from {', '.join(self.kinds) or 'none: there are none'}"
            )
        matrix_NF = self._read(_ARRAYS[kind])
        cost = _PASSES[kind] * float(self._tokens_N(len(matrix_NF)).sum())
        return PoolFeatures(kind, matrix_NF, np.ones(len(matrix_NF), np.bool_), cost)

    def earlier_features(self, later: "RecordedTable") -> PoolFeatures:
        """Return this table's sketches as the features of a later checkpoint's period, in which they are free."""
        sketches = self.features("gradient")
        if self._pool() != later._pool():
            raise DataError(f"{self.path} and {later.path} hold other samples, or in another order: record one pool")
        return PoolFeatures("earlier", sketches.matrix_NF, sketches.usable_N, 0.0)

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
