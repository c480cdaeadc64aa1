"""The target's own features, which those of the pool are matched with: a mean a subtask.

Invariant: it comes from the run folder alone, in the order of the bank's subtasks; a subtask none of whose examples has
features is not known, rather than zero.
"""

from collections.abc import Sequence

import numpy as np

from clusterucb.config import RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.run.feature_parts import PreparedPart, prepared_matches
from clusterucb.run.feature_stage import feature_store
from clusterucb.run.feature_store import FeatureStore
from clusterucb.run.prepared import target_subtasks
from clusterucb.run.run_folder import RunFolder
from clusterucb.types import FloatArray


def target_means(
    config: RunConfig, target: TokenStore, folder: RunFolder, subtasks: Sequence[str]
) -> tuple[dict[str, FloatArray], tuple[str, ...]]:
    """Return the mean features of each subtask (S, F), NaN where not known, of the parts that are matched, by name;
    and what the user must hear."""
    found: dict[str, FloatArray] = {}
    notes: list[str] = []
    for part in prepared_matches(config, target):
        store = feature_store(part, folder)
        found[part.name] = _means_SF(part, store, target, subtasks)
        notes += [
            f"{part.name}: {target.ids[failure.sample]} of the target is not matched ({failure.reason})"
            for failure in store.failures()
        ]
    return found, tuple(notes)


def _means_SF(part: PreparedPart, store: FeatureStore, target: TokenStore, subtasks: Sequence[str]) -> FloatArray:
    matrix_EF, known_E = store.matrix(), np.zeros(target.num_samples, np.bool_)
    known_E[part.samples(target)] = True
    known_E[[failure.sample for failure in store.failures()]] = False
    rows = target_subtasks(target)
    means_SF = np.full((len(subtasks), matrix_EF.shape[1]), np.nan, np.float32)
    for mean_F, name in zip(means_SF, subtasks, strict=True):
        examples = rows[name][known_E[rows[name]]]
        if len(examples):
            mean_F[:] = matrix_EF[examples].astype(np.float32).mean(axis=0)
    return means_SF
