"""What preparation leaves in a run folder, for those who read it without a model."""

import numpy as np

from clusterucb.data.tokens import TokenStore
from clusterucb.run.gating import kept
from clusterucb.run.run_folder import RunFolder
from clusterucb.types import IntArray


def open_prepared(folder: RunFolder) -> tuple[TokenStore, TokenStore]:
    """Open pool and target of a prepared run folder; rows that left by the gates are not usable."""
    return kept(folder, TokenStore.open(folder.state / "pool")), TokenStore.open(folder.state / "target")


def target_subtasks(target: TokenStore) -> dict[str, IntArray]:
    """Return the rows of every subtask, by name, names ascending."""
    codes_E, names = target.subtasks.codes()
    return {names[code]: np.flatnonzero(codes_E == code) for code in sorted(range(len(names)), key=names.__getitem__)}
