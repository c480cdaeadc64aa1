"""Clusters and rewards that an earlier run leaves to this one: arms that are kept, and how a search begins.

Samples are known by their ids. Invariant: both are copied into this run's folder before it starts, so that a resumed
run needs the earlier one no more.
"""

import numpy as np
import numpy.typing as npt

from clusterucb.config import RunConfig
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import DataError
from clusterucb.run.disk import replacing
from clusterucb.run.earlier_run import EarlierRun
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.target_columns import target_columns
from clusterucb.types import Clusters

_CLUSTERS, _REWARDS = "clusters.npz", "earlier_rewards.npy"


def bring_earlier(config: RunConfig, pool: TokenStore, subtasks: tuple[str, ...], folder: RunFolder) -> None:
    """Copy what `clusters.path` and `search.warm_start` name, unless it is there. Raises DataError where it lacks."""
    if config.clusters.path is not None and not (folder.state / _CLUSTERS).exists():
        save_clusters(_kept(config.clusters.path, pool), folder)
    warm = config.search.warm_start
    file = folder.state / _REWARDS
    if warm is not None and not file.exists():
        influence_NS = EarlierRun(warm.path, pool).influence_NS()
        if influence_NS.shape[1] != len(subtasks):
            raise DataError(
                f"search.warm_start.path {warm.path} scored {influence_NS.shape[1]} subtasks and there are "
                f"{len(subtasks)} now: name a run with the same target"
            )
        rewards = [target.rewards_B(influence_NS) for target in target_columns(config, subtasks)]  # NaN stays NaN
        with replacing(file) as beside, beside.open("wb") as opened:
            np.save(opened, np.stack(rewards, axis=1))
        folder.replica.put(file)


def earlier_rewards_NM(folder: RunFolder) -> npt.NDArray[np.float64] | None:
    """Return an earlier run's rewards for each target, NaN where there are none; None where none were brought."""
    file = folder.state / _REWARDS
    return np.load(file).astype(np.float64) if file.exists() else None


def saved_clusters(folder: RunFolder) -> Clusters | None:
    """Return the run's clusters, made or brought."""
    path = folder.state / _CLUSTERS
    if not path.exists():
        return None
    with np.load(path) as found:
        return Clusters(found["labels_N"], found["centroids_KF"])


def save_clusters(clusters: Clusters, folder: RunFolder) -> None:
    """Keep the run's clusters."""
    path = folder.state / _CLUSTERS
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez(file, labels_N=clusters.labels_N, centroids_KF=clusters.centroids_KF)
    folder.replica.put(path)


def _kept(location: str, pool: TokenStore) -> Clusters:
    run = RunFolder.open(location)
    if not run.exists:
        raise DataError(f"clusters.path {location} holds no run: name the folder of a finished selection")
    run.bring_scores()
    clusters = saved_clusters(run)
    if clusters is None:
        raise DataError(f"clusters.path {location} has no clusters: name a run whose allocator looks at clusters")
    label = dict(zip(TokenStore.open(run.state / "pool").ids, clusters.labels_N.tolist(), strict=True))
    labels_N = np.asarray([label.get(name, -1) for name in pool.ids], dtype=np.int32)
    labels_N[~pool.usable_N] = -1
    unknown = int((pool.usable_N & (labels_N < 0)).sum())
    if unknown == int(pool.usable_N.sum()):
        raise DataError(f"clusters.path {location} has no cluster of any sample of this pool: it is of another pool")
    return Clusters(labels_N, clusters.centroids_KF)
