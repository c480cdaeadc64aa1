"""What a view holds of a run in every state, against the files that the run left."""

import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from selection_cases import config_of, result_of, run_here, small_selection

from clusterucb.errors import RunFolderError
from clusterucb.run.events import Cancelled, EventLog, Started
from clusterucb.run.in_process import run_in_process
from clusterucb.run.preparation import prepare
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.view.model import RunView
from clusterucb.run.view.read import RunViews, read_view, view_file


class _Enough(Exception):
    """The run has gone as far as the test wants."""


def run_until(config, path: Path, draws: int) -> RunFolder:
    """Run with events on disk, as a coordinator does, and break off when so many samples were told."""
    folder = RunFolder(path)
    prepare(config, folder, lambda what, rows: None)
    log = EventLog(folder.events_file, time.time)
    log(Started(run=folder.name, resumed=False, workers=1))

    def emit(event) -> None:
        log(event)
        if event.event == "progressed" and event.stage == "search":
            emit.told += event.samples
            if emit.told >= draws:
                raise _Enough

    emit.told = 0
    with pytest.raises(_Enough):
        run_in_process(config, folder, emit)
    log.close()
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict[str, object]:
    return small_selection(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory) -> RunFolder:
    return run_here(config_of(settings), tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture(scope="module")
def view(finished) -> RunView:
    return read_view(finished)


def test_a_view_agrees_with_scores_and_summary(finished: RunFolder, view: RunView) -> None:
    summary = json.loads(finished.summary_file.read_text())
    scores = pq.read_table(finished.scores_file).to_pandas()
    drawn = scores[scores.stage != "audit"]
    selected = drawn[drawn["rank"] > 0]
    assert (view.scored, view.selected, view.provisional) == (len(drawn), len(selected), False)
    assert view.progress.state == "finished"
    assert view.influence
    assert view.search
    assert view.composition
    assert view.lengths
    assert view.samples
    assert view.cost
    assert sum(view.influence.histogram.drawn) == len(drawn)
    assert sum(view.influence.histogram.selected) == len(selected)
    assert sum(view.influence.histogram.audited or ()) == (scores.stage == "audit").sum()
    assert view.influence.threshold == pytest.approx(selected.influence.min())
    assert view.influence.undrawn == summary["usable"] - len(drawn)
    assert [share.model_dump() for share in view.composition.sources] == summary["by_source"]
    assert view.cost.model_dump(mode="json") == summary["cost"]
    assert view.audit is not None
    assert view.audit.model_dump() == summary["audit"]
    assert sum(view.lengths.histogram.pool or ()) == summary["usable"]
    for arm in view.search.arms:
        mine = drawn[drawn.cluster == arm.cluster]
        assert (arm.draws, arm.selected) == (len(mine), (mine["rank"] > 0).sum())
        assert sum(arm.draws_by_round) == arm.draws
        assert arm.mean == pytest.approx(mine.influence.mean(), rel=1e-5)
        assert arm.std == (pytest.approx(mine.influence.std(), rel=1e-4) if len(mine) > 1 else None)
        assert arm.best == pytest.approx(mine.influence.max())
    assert sum(arm.size for arm in view.search.arms) == summary["usable"]
    assert sum(each.draws for each in view.search.rounds) == len(drawn)
    assert sum(each.selected for each in view.search.rounds) == len(selected)


def test_samples_come_with_the_texts_of_the_pool(finished: RunFolder, view: RunView) -> None:
    assert view.samples is not None
    lines = [json.loads(line) for line in finished.selection_file.read_text().splitlines()]
    assert [sample.id for sample in view.samples.selected] == [line["id"] for line in lines]
    for sample, line in zip(view.samples.selected, lines, strict=True):
        assert sample.messages is not None
        assert [message.model_dump() for message in sample.messages] == line["messages"]
        assert sample.rank == line["clusterucb"]["rank"]
    influences = [sample.influence for sample in view.samples.rejected]
    assert influences == sorted(influences, reverse=True)
    assert all(sample.rank is None and sample.messages for sample in view.samples.rejected)


def test_a_kept_view_needs_neither_state_nor_pool(finished: RunFolder, view: RunView, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    (bare / "state").mkdir(parents=True)
    for name in ("config.json", "summary.json", "state/view.json"):
        (bare / name).write_bytes((finished.path / name).read_bytes())
    assert read_view(RunFolder(bare)) == view


def test_a_view_of_another_format_is_made_anew(finished: RunFolder, view: RunView, tmp_path: Path) -> None:
    kept = view_file(finished).read_bytes()
    try:
        view_file(finished).write_text(json.dumps(json.loads(kept) | {"format": 0}))
        assert read_view(finished, texts=True).model_dump() == view.model_dump()
        assert read_view(finished).samples.selected[0].messages is None  # the pool was not asked for
    finally:
        view_file(finished).write_bytes(kept)


def test_an_unfinished_run_shows_what_it_has(settings: dict[str, object], tmp_path: Path) -> None:
    config = config_of(settings)
    folder = run_until(config, tmp_path / "run", draws=24)
    reader = RunViews(folder)
    view = reader.read()
    assert view.progress.state == "running"
    assert view.provisional
    assert view.audit is None
    assert 24 <= view.scored < 64
    assert view.selected == min(view.scored, view.wanted)
    assert view.search
    assert sum(arm.draws for arm in view.search.arms) == view.scored
    assert view.samples
    assert all(sample.messages is None for sample in view.samples.selected)
    assert [stage.stage for stage in view.progress.stages] == ["target", "features", "search"]
    assert view.progress.read_to == folder.events_file.stat().st_size
    assert reader.read() is view  # nothing new: nothing is read again
    assert read_view(folder, texts=True).samples.selected[0].messages

    log = EventLog(folder.events_file, time.time)
    log(Cancelled())
    log.close()
    assert reader.read().progress.state == "cancelled"

    run_in_process(config, folder, lambda event: None)
    assert reader.read().progress.state == "finished"
    assert not reader.read().provisional


def test_a_prepared_run_and_an_empty_folder(settings: dict[str, object], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    prepare(config_of(settings), folder, lambda what, rows: None)
    view = read_view(folder)
    assert view.progress.state == "prepared"
    assert view.pool is not None
    assert view.pool.samples == 160
    assert view.search is None
    assert view.samples is None
    with pytest.raises(RunFolderError, match="no run"):
        read_view(RunFolder(tmp_path / "nothing"))


def test_no_path_of_the_machine_is_in_a_view(view: RunView, finished: RunFolder) -> None:
    text = view.model_dump_json()
    assert str(finished.path.parent.parent) not in text
    assert '"pool":"pool.jsonl"' in text


@pytest.mark.parametrize("allocator", ["uniform", "exhaustive", "predictive"])
def test_every_allocator_has_a_view(settings: dict[str, object], tmp_path: Path, allocator: str) -> None:
    overrides = [f"search.allocator.kind={allocator}", *(["audit.samples=0"] if allocator == "uniform" else [])]
    view = read_view(run_here(config_of(settings, *overrides), tmp_path / "run"))
    assert view.influence
    assert view.search
    assert view.search.rounds
    assert bool(view.search.arms) == (allocator == "predictive")
    assert (view.audit is None) == (allocator == "uniform")


def test_a_report_that_cannot_be_written_ends_the_run(settings: dict[str, object], tmp_path: Path) -> None:
    config = config_of(settings)
    folder = run_until(config, tmp_path / "run", draws=24)
    folder.report_file.mkdir()
    (folder.report_file / "in the way").touch()
    with pytest.raises(OSError, match=r"report\.html"):
        run_in_process(config, folder, lambda event: None)
    assert not folder.finished
    (folder.report_file / "in the way").unlink()
    folder.report_file.rmdir()
    run_in_process(config, folder, lambda event: None)
    assert folder.finished
    assert folder.report_file.stat().st_size > 100_000
    assert np.frombuffer(result_of(folder)[0], np.uint8).size
