"""Features that the user brings: a column of the pool's rows, a matrix, or what an earlier run knows.

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
from clusterucb.run.earlier_run import EarlierRun, keep_beside
from clusterucb.run.feature_parts import FeaturePart
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.remote import is_url
from clusterucb.run.run_folder import RunFolder
from clusterucb.types import FloatArray, IntArray


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
        if not is_url(features.path) and Path(features.path).is_file():
            store.write(_from_matrix(Path(features.path), pool, usable), ())
        else:
            _bring_earlier(features.path, part, every, pool, usable, folder)


def _bring_earlier(
    location: str, part: FeaturePart, every: bool, pool: TokenStore, usable: IntArray, folder: RunFolder
) -> None:
    store = FeatureStore(folder.state, pool.num_samples, folder.replica, part.name)
    run = EarlierRun(location, pool)
    found_N = np.zeros(pool.num_samples, dtype=bool)
    for samples_B, _ in run.sketches():
        found_N[samples_B] = True
    failed = [failure for failure in run.failures() if pool.usable_N[failure.sample] and not found_N[failure.sample]]
    missing = usable[~found_N[usable]]
    if len(missing) == len(usable) or (every and len(missing) > len(failed)):
        raise DataError(
            f"features.path {location} has no sketch of {len(missing)} of {len(usable)} samples, "
            f"{pool.ids[int(missing[0])]} among them: name a run that scored the whole of this pool, or let another "
            f"part of features.kind several come first"
        )
    keep_beside(run, part.name, folder)
    store.write(run.sketches(), failed)


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
