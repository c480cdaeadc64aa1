"""One reader of a run for all: every event once, from any place, and the end last."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from selection_cases import config_of, small_selection

import ray_app.service.run_tail as run_tail
from ray_app.service.ledger import Asked, Ended, Ledger
from ray_app.service.records import Outcome, new_run_id
from ray_app.service.refusals import NotFound
from ray_app.service.run_tail import RunTail
from ray_app.service.twins import link_results

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    config = config_of(small_selection(tmp_path_factory.mktemp("material"), rows=8))
    return Asked(
        id=new_run_id(1),
        owner="ann",
        created=NOW,
        pool="mixed",
        checkpoint="tiny",
        target="sums",
        label="",
        settings={},
        key=None,
        request="r",
        work="w",
        config=config,
    )


class Run:
    """A run on disk whose events are written by hand."""

    def __init__(self, folder: Path, asked: Asked) -> None:
        self.ledger, self.id = Ledger(folder), asked.id
        self.ledger.ask(asked)
        self.file = self.ledger.folder(asked.id).events_file
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.now = 0.0
        self.tail = RunTail(self.ledger, asked.id, self.clock)

    def clock(self) -> float:
        self.now += 1.0  # every look is fresh
        return self.now

    def write(self, *events: dict[str, object], partial: str = "") -> None:
        with self.file.open("a") as file:
            file.write("".join(json.dumps(event) + "\n" for event in events) + partial)

    def end(self) -> None:
        outcome = Outcome(scored=4, selected=1, pool=8)
        self.ledger.end(self.id, Ended(status="finished", at=NOW, outcome=outcome))


def progressed(number: int) -> dict[str, object]:
    return {"event": "progressed", "stage": "search", "samples": 1, "tokens": number}


async def everything(run: Run, after: int = 0) -> list[str]:
    lines: list[str] = []
    while True:
        news = await run.tail.news(after, 0)
        lines += [event.line for event in news.events]
        after = news.events[-1].id if news.events else after
        if news.record.over or not news.events:
            return lines


async def test_every_event_comes_once_and_the_end_with_the_last(asked: Asked, tmp_path: Path):
    run = Run(tmp_path, asked)
    assert (await run.tail.record()).status == "queued"
    run.ledger.begin(run.id, NOW)
    events = [progressed(number) for number in range(1000)]
    run.write({"event": "stage_started", "stage": "search", "total": 2000, "done": 5}, *events[:400], partial='{"ev')
    first = await everything(run)
    assert len(first) == 401
    record = await run.tail.record()
    assert [(stage.done, stage.total, stage.finished) for stage in record.stages] == [(405, 2000, False)]
    with run.file.open("a") as file:
        file.write('ent": "note", "text": "whole now"}\n')
    run.write(*events[400:], {"event": "stage_finished", "stage": "search"})
    run.end()
    news = await run.tail.news(0, 0)
    assert not news.record.over, "more events follow"
    assert await everything(run) == run.file.read_text().splitlines()


@given(place=st.integers(0, 10_000))
async def test_any_byte_is_a_place_to_go_on_from(asked: Asked, tmp_path_factory: pytest.TempPathFactory, place: int):
    run = Run(tmp_path_factory.mktemp("run"), asked)
    run.write(*(progressed(number) for number in range(100)))
    text = run.file.read_text()
    expected = [line for end, line in _ends(text) if end > place]
    assert await everything(run, place) == expected


@given(place=st.integers(0, 10_000))
async def test_what_is_not_held_comes_from_the_file(asked: Asked, tmp_path_factory: pytest.TempPathFactory, place: int):
    run = Run(tmp_path_factory.mktemp("run"), asked)
    run.write(*(progressed(number) for number in range(100)))
    held, run_tail._HELD_BYTES = run_tail._HELD_BYTES, 1000
    try:
        assert await everything(run, place) == [line for end, line in _ends(run.file.read_text()) if end > place]
    finally:
        run_tail._HELD_BYTES = held


def _ends(text: str) -> list[tuple[int, str]]:
    place, found = 0, []
    for line in text.splitlines():
        place += len(line) + 1
        found.append((place, line))
    return found


async def test_watchers_hear_of_what_is_written_while_they_wait(asked: Asked, tmp_path: Path):
    run = Run(tmp_path, asked)
    run.tail = RunTail(run.ledger, run.id, asyncio.get_running_loop().time)
    watching = [asyncio.create_task(run.tail.news(0, 60)) for _ in range(50)]
    await asyncio.sleep(0)
    run.write(progressed(1))
    heard = await asyncio.gather(*watching)
    assert {len(news.events) for news in heard} == {1}


async def test_a_run_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(NotFound, match="no run 0123"):
        await RunTail(Ledger(tmp_path), "0123", asyncio.get_running_loop().time).record()


def test_results_are_linked_and_each_can_be_deleted(asked: Asked, tmp_path: Path):
    ledger = Ledger(tmp_path)
    other = asked.model_copy(update={"id": new_run_id(2)})
    for each in (asked, other):
        ledger.ask(each)
    there, here = ledger.folder(asked.id), ledger.folder(other.id)
    (there.state / "lease").mkdir(parents=True)
    for name in ("summary.json", "config.json", "state/lease/1"):
        (there.path / name).write_text(name)
    ended = Ended.model_validate({"status": "finished", "at": NOW, "gradients": {"reused": 2, "computed": 7}})
    linked = link_results(there, here, ended, NOW)
    assert linked is not None
    assert linked.gradients is not None
    assert (linked.gradients.reused, linked.gradients.computed) == (9, 0)
    assert here.finished
    assert not (here.state / "lease").exists(), "who writes a run is its own"
    ledger.end(asked.id, ended)
    ledger.remove(asked.id)
    assert ledger.ids() == [other.id]
    assert here.summary_file.read_text() == "summary.json"
    assert link_results(there, ledger.folder(new_run_id(3)), ended, NOW) is None, "its results are gone"
