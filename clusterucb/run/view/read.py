"""The view of a run from its folder, in whatever state it is, and beside a run that is going on.

A finished run keeps its view in `state/view.json`, for nothing of it will change; of any other it is made from the
journal of scores, which costs a pass over that.
"""

# pyarrow is typed only in part: what it leaves unknown is not ours to declare.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ValidationError

from clusterucb.config import NoDiversity
from clusterucb.data.rows import read_rows
from clusterucb.data.tokens import TokenStore
from clusterucb.errors import DataError, RunFolderError
from clusterucb.run.choosing import Choosing, pool_groups
from clusterucb.run.costs import run_costs
from clusterucb.run.disk import write_atomically
from clusterucb.run.gating import read_gates
from clusterucb.run.prepared import open_prepared, target_subtasks
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.score_log import STAGES, ScoreArchive
from clusterucb.run.score_table import ScoreTable
from clusterucb.run.summary import read_summary
from clusterucb.run.target_columns import target_columns
from clusterucb.run.view.arms import Labels
from clusterucb.run.view.build import Evidence, build_view
from clusterucb.run.view.model import FORMAT, RunView
from clusterucb.run.view.progress import ProgressSoFar
from clusterucb.run.view.samples import Texts
from clusterucb.run.view.setup import read_setup
from clusterucb.selection import SelectedSubset


def view_file(folder: RunFolder) -> Path:
    """Return where a finished run keeps its view."""
    return folder.state / "view.json"


def keep_view(folder: RunFolder, view: RunView) -> RunView:
    """Keep the view of a run that is over, and return it."""
    write_atomically(view_file(folder), view.model_dump_json())
    folder.replica.put(view_file(folder))
    return view


def finished_view(folder: RunFolder, found: Evidence, texts: Texts) -> RunView:
    """Make the view of a run whose outputs are written; its events are those of this working copy."""
    events = ProgressSoFar()
    if folder.events_file.exists():
        events.add(folder.events_file.read_bytes())
    setup = read_setup(folder, found.config)
    return build_view(folder.name, setup, events.progress("finished"), found, texts)


class RunViews:
    """Looks at one run again and again; what never changes is read once. Raises RunFolderError where there is none."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._config = folder.read_config()
        self._setup = read_setup(folder, self._config)
        self._events = ProgressSoFar()
        self._last: RunView | None = None
        self._prepared: tuple[TokenStore, TokenStore] | None = None
        self._labels_N: Labels | None = None

    def read(self, texts: bool = False) -> RunView:
        """Return the view as of now; `texts` brings those of a run that is not finished, in a pass over the pool."""
        folder = self._folder
        finished = folder.finished
        if finished and (kept := _kept(folder)) is not None:
            return kept
        news = folder.read_events(self._events.read_to)
        if self._last is not None and not news and not texts and not finished:
            return self._last
        self._events.add(news)
        progress = self._events.progress("finished" if finished else None)
        found = self._evidence(finished)
        rows = read_rows(self._config.pool).raw if texts and found is not None else None
        self._last = build_view(folder.name, self._setup, progress, found, rows)
        return self._last

    def _evidence(self, finished: bool) -> Evidence | None:
        folder, config = self._folder, self._config
        if self._labels_N is None:  # then more may have come
            folder.bring_whole_files()
        if self._prepared is None:
            if not all((folder.state / name / "meta.json").exists() for name in ("pool", "target")):
                return None
            self._prepared = open_prepared(folder)
        pool, target = self._prepared
        clusters = folder.state / "clusters.npz"
        if self._labels_N is None and clusters.exists():
            with np.load(clusters) as kept:
                self._labels_N = kept["labels_N"]
        archive = _archive(folder)
        subtasks = tuple(target_subtasks(target))
        drawn = ScoreTable.drawn(archive, len(subtasks), config.gradients.scoring)
        summary = read_summary(folder) if finished else None
        return Evidence(
            config=config,
            pool=pool,
            target=target,
            labels_N=self._labels_N,
            drawn=drawn,
            everything=ScoreTable.of(archive, len(subtasks), STAGES),
            subset=_written(folder, pool) if finished else self._selected(archive, subtasks, drawn),
            cost=summary.cost if summary else run_costs(folder, archive, pool, pool.usable_N),
            summary=summary,
        )

    def _selected(self, archive: ScoreArchive, subtasks: Sequence[str], drawn: ScoreTable) -> SelectedSubset | None:
        """Select from what is drawn: what would be selected if the run ended now, but for its diversity."""
        assert self._prepared is not None
        config, pool, count = self._config, self._prepared[0], len(drawn.samples_B)
        if not count:
            return None
        size = min(config.selection.size(int(pool.usable_N.sum())), count)
        asked = config.selection.model_copy(update={"share": None, "count": size, "diversity": NoDiversity()})
        groups = pool_groups(config, pool, self._labels_N, read_gates(self._folder))
        choosing = Choosing.of_log(config, pool, target_columns(config, subtasks), archive, groups)
        return choosing.select(drawn, choosing.joint_B(drawn), asked, count)


def _kept(folder: RunFolder) -> RunView | None:
    """Return the view that a finished run has kept; none where it kept none, or in another format."""
    path = folder.bring(view_file(folder))
    try:
        view = RunView.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return view if view.format == FORMAT else None


def _archive(folder: RunFolder) -> ScoreArchive:
    """Read what was scored so far; a run at a URL may be written elsewhere, so its journal is copied apart."""
    if folder.remote is None:
        try:
            return ScoreArchive(folder.state)
        except RunFolderError:  # a group was being written, and the next behind it: whole by now, or truly damaged
            return ScoreArchive(folder.state)
    with tempfile.TemporaryDirectory() as apart:
        if folder.remote.exists("state/scores.journal"):
            folder.remote.copy_grown("state/scores.journal", Path(apart) / "scores.journal")
        return ScoreArchive(Path(apart))


def _written(folder: RunFolder, pool: TokenStore) -> SelectedSubset:
    """Return the selection that a finished run wrote down."""
    columns = ["id", "rank", "influence"]
    table = (
        pq.read_table(folder.bring(folder.scores_file), columns=columns).filter(pc.field("rank") > 0).sort_by("rank")
    )
    places = {name: sample for sample, name in enumerate(pool.ids)}
    samples = [places[name] for name in table["id"].to_pylist()]
    return SelectedSubset(np.asarray(samples, np.int64), table["influence"].to_numpy().astype(np.float64))


def read_view(folder: RunFolder, texts: bool = False) -> RunView:
    """Look at a run once. Raises RunFolderError where there is none, DataError where its pool is gone."""
    try:
        return RunViews(folder).read(texts)
    except DataError as error:
        raise RunFolderError(f"{folder.location} can be shown, but not the texts of its samples: {error}") from None
