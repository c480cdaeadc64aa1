"""Trackers are told what happens, once, and can do a run no harm."""

import json
from pathlib import Path

import pytest
from selection_cases import config_of, run_here, small_selection
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clusterucb.config import RunConfig
from clusterucb.errors import ConfigError
from clusterucb.run.events import (
    Evaluated,
    Event,
    EventLog,
    Progressed,
    RoundPlanned,
    StageStarted,
    Stepped,
    parse_event,
)
from clusterucb.run.run_folder import RunFolder
from ray_app.sinks import feed
from ray_app.sinks.feed import told_to_sinks
from ray_app.sinks.scalars import Scalar, Scalars
from ray_app.sinks.sink import check_sinks, flat


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    settings = small_selection(tmp_path_factory.mktemp("material"), rows=96)
    return config_of(
        settings, "search.cold_start_min=1", "audit.samples=0", "sinks.tensorboard={}", "sinks.every_s=0.05"
    )


def stepped(step: int, loss: float) -> Stepped:
    return Stepped(step=step, learning_rate=0.1, loss=loss, gradient_norm=1.0, tokens=10)


def log_to(folder: RunFolder, *events: Event) -> None:
    log = EventLog(folder.events_file, lambda: 1e9)
    for event in events:
        log(event)
    log.close()


def board(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_tensorboard_reads_what_happened_in_a_run_with_steps_and_times(config: RunConfig, tmp_path: Path):
    notes: list[str] = []
    folder = run_here(config, tmp_path / "run")
    planned = [RoundPlanned(round=i, draws=4, arms=2, remaining=20 - i) for i in range(3)]
    judged = Evaluated(what="selected, seed 0", step=7, loss=1.5, accuracy=0.25)
    with told_to_sinks(config, folder, notes.append):
        log_to(folder, *planned, stepped(1, 2.0), stepped(2, 1.0), judged)
    found = board(folder.path / "tensorboard")
    assert [(event.step, event.value) for event in found.Scalars("rounds/remaining")] == [(0, 20), (1, 19), (2, 18)]
    assert [(event.step, event.value) for event in found.Scalars("training/loss")] == [(1, 2.0), (2, 1.0)]
    assert found.Scalars("training/loss")[0].wall_time == 1e9
    assert [(event.step, event.value) for event in found.Scalars("held_out/selected/seed_0/loss")] == [(7, 1.5)]
    assert not notes


def test_a_run_that_is_taken_up_delivers_nothing_twice(config: RunConfig, tmp_path: Path):
    folder = run_here(config, tmp_path / "run")
    progress = Progressed(stage="search", samples=4, tokens=100, seconds=2.0, best=0.5)
    for losses in ({1: 3.0, 2: 2.0}, {3: 1.0}):
        with told_to_sinks(config, folder, print):
            log_to(folder, progress, *(stepped(i, loss) for i, loss in losses.items()))
    found = board(folder.path / "tensorboard")
    assert sorted(event.value for event in found.Scalars("training/loss")) == [1.0, 2.0, 3.0]
    assert [event.step for event in found.Scalars("search/best")] == [4, 8], "samples are counted on"


@pytest.mark.parametrize("fails", ["write", "close", "open"])
def test_a_tracker_that_fails_is_reported_once_and_ends_nothing(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
):
    written: list[Scalar] = []

    class Broken:
        def __init__(self) -> None:
            self._fail_at("open")

        def _fail_at(self, what: str) -> None:
            if fails == what:
                raise ConnectionError("no route")

        def write(self, scalars: list[Scalar]) -> None:
            self._fail_at("write")

        def close(self, ended: bool) -> None:
            self._fail_at("close")

    class Works:
        def write(self, scalars: list[Scalar]) -> None:
            written.extend(scalars)

        def close(self, ended: bool) -> None: ...

    monkeypatch.setattr(feed, "sink_makers", lambda *_: {"mlflow": Broken, "wandb": Works})
    folder, notes = run_here(config, tmp_path / "run"), list[str]()
    with told_to_sinks(config, folder, notes.append):
        log_to(folder, stepped(1, 2.0), stepped(2, 1.0))
    assert len(notes) == 1
    assert "tracker mlflow failed and gets nothing more: ConnectionError: no route" in notes[0]
    assert [scalar.value for scalar in written if scalar.name == "training/loss"] == [2.0, 1.0], "the other gets all"


def test_events_that_cannot_be_read_are_reported_once(config: RunConfig, tmp_path: Path):
    folder, notes = run_here(config, tmp_path / "run"), list[str]()
    feed_ = feed.Feed(config.sinks, folder, notes.append)
    folder.events_file.write_text('{"event":"of a version to come"}\n')
    feed_.start()
    while not notes:
        feed_.join(0.01)
        assert feed_.is_alive()
    feed_.stop(True)
    assert len(notes) == 1
    assert "tracker events failed" in notes[0]


def test_what_is_not_installed_is_named_before_anything_starts(config: RunConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"sinks\.tensorboard is set, but tensorboardX is not installed: pip install"):
        check_sinks(config.sinks)


def test_scalars_are_a_function_of_the_events_alone():
    events = [StageStarted(stage="search", total=9, done=3), Progressed(stage="search", samples=2, tokens=8, seconds=0)]
    events = [parse_event(json.dumps(json.loads(event.model_dump_json()) | {"time": 5.0})) for event in events]
    found = [scalar for event in events for scalar in Scalars().__call__(event)]
    assert [(scalar.name, scalar.step, scalar.time) for scalar in found] == [("search/failed", 2, 5.0)]
    one = Scalars()
    assert [scalar.step for event in events for scalar in one(event)] == [5], "what was done before counts"


def test_a_configuration_is_flat_for_trackers():
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": {}}) == {"a.b": 1, "a.c": "[1, 2]", "d": "{}"}
