"""What a run knows of its pool beside the features, before anything is scored: where samples come from, what an earlier
period found and predicted, and how its sketches, or features of this one, match the target.

Invariant: it comes from the run folder alone (pool, feature matrices, target bank), so that a resumed run knows the
same.
"""

# torch is typed only in part.
# pyright: reportUnknownMemberType=false

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clusterucb.config import Feature, GradientFeatures, Gradients
from clusterucb.data.tokens import TokenStore
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.earlier_run import SketchSpace, kept_beside
from clusterucb.run.feature_parts import PreparedPart
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.target_columns import TargetColumns
from clusterucb.search.predictive import Columns, Factor, Knowledge
from clusterucb.types import FloatArray, HalfArray

BLOCK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """Columns that come with a part of the features, and what the user must hear about them."""

    columns: tuple[Columns, ...] = ()
    note: str = ""


def sources_of(pool: TokenStore) -> Factor:
    """Return where each sample comes from."""
    return Factor("source", pool.sources.codes()[0].astype(np.int64))


def known_beside(
    features: Feature,
    name: str,
    state: Path,
    gradients: Gradients,
    matrix_NF: HalfArray,
    bank: TargetBank,
    targets: Sequence[TargetColumns],
    wanted_SF: FloatArray | None = None,
) -> Beside:
    """Return what an earlier run left beside its sketches, and their products with each target of this one; of other
    features their products with the target's own (`wanted_SF`), where these are known.

    There are no products, but a note, where the sketches are of another map or of other parameters, or nothing says.
    """
    if wanted_SF is not None:
        return Beside(_matches(f"match {name}", matrix_NF, wanted_SF, targets))
    if not (isinstance(features, GradientFeatures) and features.path is not None):
        return Beside()
    space, columns = kept_beside(state, name)
    if space is None:
        return Beside(note=f"{name}: nothing says how {features.path} was made, so it is not matched with the target")
    if bank.sketch_SD is None:
        return Beside(columns, f"{name}: gradients.sketch is none, so old sketches are not matched with the target")
    if differs := SketchSpace.of(gradients, bank).differs(space):
        return Beside(columns, f"{name}: old sketches are not matched with the target: {differs}")
    return Beside((*columns, *_matches("match", matrix_NF, bank.sketch_SD.cpu().float().numpy(), targets)))


def known_of(
    parts: Sequence[PreparedPart],
    stores: Sequence[FeatureStore],
    state: Path,
    gradients: Gradients,
    pool: TokenStore,
    bank: TargetBank,
    targets: Sequence[TargetColumns],
    wanted: Mapping[str, FloatArray] | None = None,
) -> tuple[Knowledge, tuple[str, ...]]:
    """Return the features of all parts with what stands beside them, and notes; `wanted` are the target's own features
    (S, F) of the parts that are matched with it, by name."""
    wanted = wanted or {}
    matrices = tuple(store.matrix() for store in stores)
    beside = [
        known_beside(part.features, part.name, state, gradients, matrix_NF, bank, targets, wanted.get(part.name))
        for part, matrix_NF in zip(parts, matrices, strict=True)
    ]
    columns = tuple(columns for each in beside for columns in each.columns)
    return Knowledge(matrices, columns, (sources_of(pool),)), tuple(each.note for each in beside if each.note)


def _matches(
    name: str, matrix_NF: HalfArray, wanted_SF: FloatArray, targets: Sequence[TargetColumns]
) -> tuple[Columns, ...]:
    """Return products with each target's rows, a column a subtask."""
    match_NS = _match_NS(matrix_NF, wanted_SF.T)
    return tuple(Columns(f"{name} {target.name}".rstrip(), match_NS[:, target.columns]) for target in targets)


def _match_NS(matrix_NF: HalfArray, target_FS: FloatArray) -> npt.NDArray[np.float32]:
    """Return products with the target's rows; NaN for a row of zeros, which is not known."""
    match_NS = np.empty((len(matrix_NF), target_FS.shape[1]), dtype=np.float32)
    for start in range(0, len(match_NS), BLOCK):
        block_BF = matrix_NF[start : start + BLOCK].astype(np.float32)
        match_BS = block_BF @ target_FS
        match_BS[~block_BF.any(axis=1)] = np.nan
        match_NS[start : start + BLOCK] = match_BS
    return match_NS
