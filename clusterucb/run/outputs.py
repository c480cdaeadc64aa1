"""What a run leaves for the user: `selection.jsonl` and `scores.parquet`.

Invariant: both are functions of the scores alone, in an order that no scheduling can change, so that equal runs leave
equal bytes.
"""

# pyarrow is typed only in part: what it leaves unknown is not ours to declare.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from clusterucb.data.tokens import TokenStore
from clusterucb.run.disk import replacing
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.shared_scores import SharedScores
from clusterucb.selection import SelectedSubset
from clusterucb.types import IntArray


def ranks_of(table: ScoreTable, subset: SelectedSubset) -> IntArray:
    """Return the 1-based rank of every scored sample in the selection; 0 where it is not selected."""
    rank_B = np.zeros(len(table.samples_B), dtype=np.int64)
    rank_B[np.searchsorted(table.samples_B, subset.samples_B)] = np.arange(1, len(subset) + 1)
    return rank_B


def write_scores(
    path: Path,
    pool: TokenStore,
    table: ScoreTable,
    exact_B: npt.NDArray[np.bool_],
    subtasks: Sequence[str],
    labels_N: npt.NDArray[np.int32] | None,
    subset: SelectedSubset,
    shared: SharedScores | None = None,
    scores: Mapping[str, npt.NDArray[np.float64]] | None = None,
) -> None:
    """Write one row a scored sample, in pool order; `influence` is the maximum over the subtask columns, and `exact`
    where it is of the gradient itself rather than of its sketch.

    With several targets it is that of the target which the sample serves best, and every target has columns of its own.
    `scores` are columns besides: what was ranked by, where that is not the influence.
    """
    samples = table.samples_B
    cluster_B = np.full(len(samples), -1, np.int32) if labels_N is None else labels_N[samples]
    columns: dict[str, Any] = {
        "id": pa.array(pool.ids.take(samples), pa.string()),
        "source": pa.array(pool.sources.take(samples), pa.string()),
        "influence": table.reward_B.astype(np.float32),
        "exact": exact_B,
        "subtask": pa.array([subtasks[subtask] for subtask in table.subtask_B.tolist()], pa.string()),
        "rank": pa.array(ranks_of(table, subset), pa.int32()),
        "stage": pa.array(table.stage_B.tolist(), pa.string()),
        "round": table.round_B,
        "cluster": cluster_B,
        "loss": table.loss_B,
        "squared_norm": table.squared_norm_B,
        "num_tokens": pool.lengths_N[samples].astype(np.int32),
        "num_label_tokens": pool.label_counts_N[samples].astype(np.int32),
    }
    if shared is not None:
        columns |= {"influence": shared.influence_B, "subtask": pa.array(shared.subtasks, pa.string())}
        columns |= {"target": pa.array(shared.targets, pa.string())}
        for name, own, chosen in shared.by_target:
            columns |= {f"influence/{name}": own.reward_B.astype(np.float32)}
            columns |= {f"rank/{name}": pa.array(ranks_of(own, chosen), pa.int32())}
    columns |= scores or {}
    if len(subtasks) > 1:
        columns |= {f"influence/{name}": table.influence_BS[:, s] for s, name in enumerate(subtasks)}
    with replacing(path) as beside:
        pq.write_table(pa.table(columns), beside, compression="zstd")


def write_selection(
    path: Path,
    rows: Iterable[dict[str, Any]],
    pool: TokenStore,
    table: ScoreTable,
    exact: bool,
    subtasks: Sequence[str],
    labels_N: npt.NDArray[np.int32] | None,
    subset: SelectedSubset,
    shared: SharedScores | None = None,
    score: bool = False,
) -> None:
    """Write the selected rows, best first: the original fields untouched, and one more, `clusterucb`.

    `exact` says whether influences are of gradients themselves or of sketches; `score` adds what was ranked by.
    """
    at = np.searchsorted(table.samples_B, subset.samples_B)
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        for rank, (row, sample, position) in enumerate(
            zip(rows, subset.samples_B.tolist(), at.tolist(), strict=True), 1
        ):
            provenance: dict[str, object] = {
                "id": pool.ids[sample],
                "rank": rank,
                "influence": float(table.influence_BS[position].max()),
                "exact": exact,
                "subtask": subtasks[int(table.subtask_B[position])],
                "cluster": None if labels_N is None else int(labels_N[sample]),
                "round": int(table.round_B[position]),
            }
            if score:
                provenance["score"] = float(subset.rewards_B[rank - 1])
            if shared is not None:
                provenance |= shared.provenance(int(position), float(subset.rewards_B[rank - 1]))
            file.write(json.dumps(row | {"clusterucb": provenance}, ensure_ascii=False) + "\n")
