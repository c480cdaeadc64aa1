"""What a run knows of its pool beside the features, before anything is scored: sources, and how old sketches match.

Invariant: it comes from the run folder alone (pool, feature matrix, target bank), so that a resumed run knows the same.
"""

# torch is typed only in part.
# pyright: reportUnknownMemberType=false

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clusterucb.config import GradientFeatures
from clusterucb.data.tokens import TokenStore
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.feature_parts import PreparedPart
from clusterucb.run.feature_store import FeatureStore
from clusterucb.search.predictive import Columns, Factor, Knowledge
from clusterucb.types import HalfArray

BLOCK = 4096


def known_beside(brought_sketches: bool, matrix_NF: HalfArray, pool: TokenStore, bank: TargetBank) -> Knowledge:
    """Return each sample's source, and the products of an earlier checkpoint's sketches with this one's target."""
    factors = (Factor("source", pool.sources.codes()[0].astype(np.int64)),)
    if not brought_sketches or bank.sketch_SD is None or bank.sketch_SD.shape[1] != matrix_NF.shape[1]:
        return Knowledge(factors=factors)
    target_FS: npt.NDArray[np.float32] = bank.sketch_SD.cpu().float().numpy().T
    match_NS = np.empty((len(matrix_NF), target_FS.shape[1]), dtype=np.float32)
    for start in range(0, len(match_NS), BLOCK):
        match_NS[start : start + BLOCK] = matrix_NF[start : start + BLOCK].astype(np.float32) @ target_FS
    return Knowledge(columns=(Columns("match", match_NS),), factors=factors)


def known_of(
    parts: Sequence[PreparedPart], stores: Sequence[FeatureStore], pool: TokenStore, bank: TargetBank
) -> Knowledge:
    """Return the features of all parts and what stands beside them."""
    columns: list[Columns] = []
    matrices = tuple(store.matrix() for store in stores)
    for part, matrix_NF in zip(parts, matrices, strict=True):
        brought = isinstance(part.features, GradientFeatures) and part.features.path is not None
        columns += known_beside(brought, matrix_NF, pool, bank).columns
    return Knowledge(matrices, tuple(columns), (Factor("source", pool.sources.codes()[0].astype(np.int64)),))
