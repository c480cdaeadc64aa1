"""The static selection, LESS's: influence summed over the warm-up's checkpoints, weighted by learning rate.

    I(x) = max over subtasks of  sum over checkpoints i of  w_i * influence_i(x, subtask),   w_i = rate_i / sum of rates

The maximum is taken after the sum. Samples that failed at one checkpoint are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clusterucb.config import RunConfig
from clusterucb.data.rows import read_rows
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import DataError
from clusterucb.run.choosing import Choosing, pool_groups
from clusterucb.run.gating import Gated
from clusterucb.run.outputs import write_scores, write_selection
from clusterucb.run.prepared import target_subtasks
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import ScoreArchive
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.target_columns import target_columns
from clusterucb.selection import SelectedSubset
from clusterucb.types import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class StaticScores:
    """The weighted sum, [B, S], of the samples scored at every checkpoint."""

    table: ScoreTable
    weights: npt.NDArray[np.float64]


def combined(folders: Sequence[RunFolder], rates: Sequence[float]) -> StaticScores:
    """Sum the influences of finished scorings of one pool and one target."""
    weights = np.asarray(rates, dtype=np.float64)
    weights = weights / weights.sum()
    tables = [_table(folder) for folder in folders]
    common = tables[0].samples_B
    for table in tables[1:]:
        common = np.intersect1d(common, table.samples_B)
    if not len(common):
        raise DataError("no sample was scored at every checkpoint of the warm-up: see the notes of these runs")
    parts = [table.influence_BS[np.searchsorted(table.samples_B, common)] for table in tables]
    summed_BS: FloatArray = np.einsum("i,ibs->bs", weights, np.stack(parts).astype(np.float64)).astype(np.float32)
    last = tables[-1]
    at_B = np.searchsorted(last.samples_B, common)
    table = replace(
        last,
        samples_B=common,
        influence_BS=summed_BS,
        squared_norm_B=last.squared_norm_B[at_B],
        loss_B=last.loss_B[at_B],
        round_B=last.round_B[at_B],
        stage_B=last.stage_B[at_B],
        reused_B=np.any([table.reused_B[np.searchsorted(table.samples_B, common)] for table in tables], axis=0),
    )
    return StaticScores(table, weights)


def write_static(
    config: RunConfig,
    scores: StaticScores,
    pool: TokenStore,
    subtasks: Sequence[str],
    folder: RunFolder,
    gated: Gated | None = None,
) -> SelectedSubset:
    """Select from the sums and write `scores.parquet` and `selection.jsonl`."""
    table = scores.table
    targets = target_columns(config, subtasks)
    choosing = Choosing.of(config, pool, targets, table, pool_groups(config, pool, None, gated))
    subset = choosing.select(table, choosing.joint_B(table), config.selection, int(pool.usable_N.sum()))
    folder.path.mkdir(parents=True, exist_ok=True)
    exact = config.gradients.scoring != "sketch"
    write_scores(
        folder.scores_file, pool, table, ~table.reused_B & exact, subtasks, None, subset, scores=choosing.scores(table)
    )
    rows = read_rows(config.pool).raw(subset.samples_B.tolist())
    write_selection(folder.selection_file, rows, pool, table, exact, subtasks, None, subset, score=choosing.corrected)
    return subset


def subtasks_of(folder: RunFolder) -> tuple[str, ...]:
    """Return the names of the subtasks of a finished scoring."""
    return tuple(target_subtasks(TokenStore.open(folder.state / "target")))


def _table(folder: RunFolder) -> ScoreTable:
    archive = ScoreArchive(folder.state)
    return ScoreTable.of(archive, len(subtasks_of(folder)), ("search", "pool"))
