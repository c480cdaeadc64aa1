"""Features that the user brings: a column of the pool's rows, a matrix, or the sketches of an earlier run.

They need no worker, so they are read, checked and written to the run's feature store before a cluster starts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from clusterucb.config import Rows
from clusterucb.data.rows import read_rows
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import DataError
from clusterucb.run.feature_parts import FeaturePart
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import ScoreArchive
from clusterucb.types import FloatArray, HalfArray, IntArray


def bring_features(part: FeaturePart, every: bool, rows: Rows, pool: TokenStore, folder: RunFolder) -> None:
    """Fill a part's store where it names features that exist, unless it is filled.

    `every` sample needs features where clusters come from them; else those of an earlier run may be some samples'.
    Raises DataError where they do not fit the pool.
    """
    features = part.features
    store = FeatureStore(folder.state, pool.num_samples, folder.replica, part.name)
    usable = np.flatnonzero(pool.usable_N)
    if store.complete:
        return
    if features.kind == "given":
        column = read_rows(rows).column(features.field)
        store.write([(usable, _unit(column[usable]))], ())
    elif features.kind == "gradient" and features.path is not None:
        store.write(_reused_sketches(Path(features.path), every, pool, usable), ())


def _reused_sketches(
    path: Path, every: bool, pool: TokenStore, usable: IntArray
) -> Iterator[tuple[IntArray, HalfArray | FloatArray]]:
    """Yield blocks of (samples of this pool, sketches) from a `.npy` matrix of N rows or from another run's folder."""
    if path.is_file():
        yield from _from_matrix(path, pool, usable)
        return
    folder = RunFolder(path)
    if not folder.exists:
        raise DataError(f"features.path {path} is neither a .npy file nor a run folder: name one that holds sketches")
    here = {name: sample for sample, name in enumerate(pool.ids)}
    there = TokenStore.open(folder.state / "pool").ids
    found = np.zeros(pool.num_samples, dtype=bool)
    for samples_B, sketch_BD in ScoreArchive(folder.state).sketches():
        at = np.asarray([here.get(name, -1) for name in there.take(samples_B)], dtype=np.int64)
        found[at[at >= 0]] = True
        yield at[at >= 0], sketch_BD[at >= 0]
    missing = usable[~found[usable]]
    if len(missing) == len(usable) or (every and len(missing)):
        raise DataError(
            f"features.path {path} has no sketch of {len(missing)} of {len(usable)} samples, "
            f"{pool.ids[int(missing[0])]} among them: name a run that scored the whole of this pool, or let another "
            f"part of features.kind several come first"
        )


def _from_matrix(path: Path, pool: TokenStore, usable: IntArray) -> Iterator[tuple[IntArray, FloatArray]]:
    try:
        loaded: object = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise DataError(f"features.path {path} is not a .npy matrix: write it with numpy.save") from None
    if not isinstance(loaded, np.ndarray):
        raise DataError(f"features.path {path} is an archive of arrays: write one matrix with numpy.save")
    matrix = cast("npt.NDArray[Any]", loaded)
    if matrix.dtype.kind not in "iuf":
        raise DataError(f"features.path {path} holds {matrix.dtype} entries: write a matrix of numbers with numpy.save")
    if matrix.ndim != 2 or len(matrix) != pool.num_samples or not matrix.shape[1]:
        raise DataError(
            f"features.path {path} has shape {matrix.shape}: it needs a row for each of the {pool.num_samples} samples"
        )
    for block in np.array_split(usable, max(1, len(usable) // 4096)):
        rows: FloatArray = np.asarray(matrix[block], dtype=np.float32)
        if not np.isfinite(rows).all():
            bad = int(block[~np.isfinite(rows).all(axis=1)][0])
            raise DataError(f"features.path {path} row {bad} has a number that is not finite: repair or exclude it")
        yield block, _unit(rows)


def _unit(features_NF: FloatArray) -> FloatArray:
    tiny = np.finfo(np.float32).tiny
    scaled_NF = features_NF / np.maximum(np.abs(features_NF).max(axis=1, keepdims=True), tiny)  # squares stay finite
    return scaled_NF / np.maximum(np.linalg.norm(scaled_NF, axis=1, keepdims=True), tiny)
