"""Influence of given samples: a selection over exactly these rows in which everything is scored and selected.

Invariant: a row's influence is what `select` would find for it in its pool, by the same code.
"""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from clusterucb.config import Audit, Exhaustive, RunConfig, Search, Selection
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import Summary
from clusterucb.settings import build_config
from ray_app.report import first_words
from ray_app.select import select
from ray_app.views import View

_ROWS = 100
_ID_WIDTH = 24


class ScoredRow(BaseModel):
    """One row and how its training would move the model towards the target."""

    rank: int
    influence: float
    subtask: str
    loss: float
    id: str
    starts_with: str


def scoring_config(config: RunConfig, rows: Path) -> RunConfig:
    """Return the configuration that scores all of `rows` as `config` would score them in its pool."""
    tree = config.model_dump(mode="json")
    tree["pool"] |= {"path": str(rows), "format": "auto", "limit": None, "revision": None}
    tree["search"] = Search(allocator=Exhaustive()).model_dump(mode="json")
    tree["selection"] = Selection(share=1.0).model_dump(mode="json")
    tree["audit"] = Audit(samples=0).model_dump(mode="json")
    if tree["features"]["kind"] == "gradient":
        del tree["features"]  # none are needed, and those of the pool are not of these rows
    return build_config(tree)


def score(config: RunConfig, rows: Path, folder: RunFolder, address: str, view: View) -> Summary:
    """Score `rows` in `folder`; run again to resume."""
    return select(scoring_config(config, rows), folder, address, view)


def scored_rows(folder: RunFolder) -> Iterator[ScoredRow]:
    """Yield the rows of a finished folder, the most influential first."""
    table = pq.read_table(folder.bring(folder.scores_file), columns=["id", "loss"])
    loss = dict(zip(table["id"].to_pylist(), table["loss"].to_pylist(), strict=True))
    with folder.bring(folder.selection_file).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            found = row["clusterucb"]
            yield ScoredRow(
                rank=found["rank"],
                influence=found["influence"],
                subtask=found["subtask"],
                loss=loss[found["id"]],
                id=found["id"],
                starts_with=textwrap.shorten(first_words(row), 200, placeholder="…"),
            )


def print_scores(summary: Summary, folder: RunFolder, console: Console) -> None:
    """Print the rows as a table, and what could not be scored."""
    table = Table(title="influence on the target", title_justify="left")
    for column in ("rank", "influence", "subtask", "loss", "id", "starts with"):
        right = column in ("rank", "influence", "loss")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    width = max(24, console.width - _ID_WIDTH - 52)
    for row in scored_rows(folder):
        if row.rank > _ROWS:
            break
        name = textwrap.shorten(row.id, _ID_WIDTH, placeholder="…")
        words = textwrap.shorten(row.starts_with, width, placeholder="…")
        table.add_row(str(row.rank), f"{row.influence:.4f}", row.subtask, f"{row.loss:.3f}", name, words)
    console.print(table)
    lines = [f"scored {summary.scored} of {summary.pool} rows"]
    lines += [f"{count} left out: {reason}" for reason, count in summary.excluded.items()]
    lines.append(f"everything is in {folder.location}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
