"""`search.until` in a run: it stops or says why not, within one budget, with the same bytes after any interruption."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from selection_cases import config_of, result_of, small_selection

from clusterucb.errors import ConfigError
from clusterucb.plan.planned_work import plan_work
from clusterucb.run.events import Event, Looked, Note
from clusterucb.run.journal import read_records
from clusterucb.run.pipeline import SelectionRun
from clusterucb.run.preparation import prepare
from clusterucb.run.prepared import open_prepared
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import Summary
from clusterucb.run.worker import Worker

UNTIL = ("search.budget=0.9", "search.until.recall=0.6", "search.until.looks=6", "selection.share=0.2")


class Interrupted(Exception):
    """The process is gone."""


def run(config, folder: RunFolder, stop_after: int | None = None) -> list[Event]:
    """Run or resume; where asked, be gone after some micro-batches."""
    events: list[Event] = []
    prepare(config, folder, lambda what, rows: None)
    worker, done = Worker(config, torch.device("cpu")), 0
    selection = SelectionRun(config, folder, events.append)
    try:
        for stage in selection.stages():
            while (job := stage.ask()) is not None:
                stage.tell(job, worker.work(job.task, lambda: selection.bank))
                done += 1
                if done == stop_after:
                    raise Interrupted
    finally:
        selection.close()
    return events


def scored(folder: RunFolder) -> list[int]:
    records = read_records(folder.state / "scores.journal")
    return [int(sample) for record in records for sample in record.arrays["samples"]]


@pytest.mark.parametrize("kind", ["ucb_beta", "predictive"])
def test_it_stops_when_certified_and_resumes_with_the_same_bytes(tmp_path: Path, kind: str):
    config = config_of(small_selection(tmp_path, rows=160), *UNTIL, f"search.allocator.kind={kind}")
    folder = RunFolder(tmp_path / "run")
    events = run(config, folder)
    summary = Summary.model_validate_json(folder.summary_file.read_bytes())
    assert summary.until is not None
    assert summary.until.reached
    looks = [event for event in events if isinstance(event, Looked)]
    assert [look.low >= 0.6 for look in looks] == [False] * (len(looks) - 1) + [True]
    assert [(look.drawn, look.audited) for look in looks] == [(r.drawn, r.audited) for r in summary.until.looks]
    samples = scored(folder)
    assert len(set(samples)) == len(samples), "a sample that was audited is not computed again when it is drawn"
    assert summary.scored == len(samples) == looks[-1].drawn + looks[-1].audited
    assert summary.scored < 0.9 * summary.usable
    assert summary.audit is not None
    assert summary.audit.low == looks[-1].low
    pool, target = open_prepared(folder)
    work = {stage.stage: len(stage.samples) for stage in plan_work(config, pool, target).stages}
    assert work["search"] + work["audit"] == int(0.9 * summary.usable)

    whole = sum(1 for event in events if event.event == "progressed")
    for stop_after in np.linspace(2, whole - 1, 4).astype(int).tolist():
        again = RunFolder(tmp_path / f"stopped {stop_after}")
        with pytest.raises(Interrupted):
            run(config, again, stop_after)
        run(config, again)
        assert result_of(again) == result_of(folder)
        assert sorted(scored(again)) == sorted(samples)
        shutil.rmtree(again.path)


def test_a_budget_that_ends_first_is_said(tmp_path: Path):
    settings = small_selection(tmp_path, rows=120)
    config = config_of(settings, "search.until.recall=0.95", "search.budget=0.4", "search.until.looks=3")
    folder = RunFolder(tmp_path / "run")
    notes = [event.text for event in run(config, folder) if isinstance(event, Note)]
    summary = Summary.model_validate_json(folder.summary_file.read_bytes())
    assert summary.until is not None
    assert not summary.until.reached
    assert summary.scored == int(0.4 * summary.usable)
    assert any("cannot be certified with fewer than" in note for note in notes)
    assert any("the budget ended before a recall of 0.95 was certified" in note for note in notes)


def test_a_run_that_scores_everything_has_nothing_to_stop(tmp_path: Path):
    with pytest.raises(ConfigError, match="scores the whole pool"):
        config_of(small_selection(tmp_path), "search.until.recall=0.9", "search.allocator.kind=exhaustive")
