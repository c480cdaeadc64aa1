"""A study in one process: what arms train on, that nothing is done twice, what it says."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from selection_cases import run_here, write_rows
from training_cases import training_config

from clusterucb.config import RunConfig
from clusterucb.errors import ConfigError, DataError
from clusterucb.run.events import Evaluated, Event, Stepped
from clusterucb.run.prepared import open_prepared
from clusterucb.run.run_folder import RunFolder
from clusterucb.study.arms import matched_subset, random_subset
from clusterucb.study.in_process import study_in_process
from clusterucb.study.result import StudySummary

SMALL = (
    "search.cold_start_min=1",
    "selection.share=0.1",
    "audit.samples=0",
    "study.seeds=2",
    "study.points=2",
    "study.epochs=2",
    'study.arms=["selected", "random", "exhaustive"]',
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("study")
    held_out = write_rows(folder / "held-out.jsonl", 6, ["sums"], seed=3)
    return training_config(folder, *SMALL, f"evaluation.held_out.path={held_out}", rows=96)


@pytest.fixture(scope="module")
def selected(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run_here(config, tmp_path_factory.mktemp("selected") / "run")


def on(run: RunFolder, config: RunConfig, **more: object) -> RunConfig:
    files = {"selected": str(run.selection_file)}
    return config.model_copy(update={"study": config.study.model_copy(update={"files": files, **more})})


@pytest.fixture(scope="module")
def whole(config: RunConfig, selected: RunFolder, tmp_path_factory: pytest.TempPathFactory):
    """A study that nothing interrupts, and its events."""
    folder, events = RunFolder(tmp_path_factory.mktemp("whole") / "run"), list[Event]()
    summary = study_in_process(on(selected, config), folder, selected, events.append)
    return summary, folder, events


def test_every_arm_makes_the_same_steps_from_the_same_start(whole: tuple[StudySummary, RunFolder, list[Event]]):
    summary, folder, events = whole
    assert [arm.arm for arm in summary.arms] == ["selected", "random", "exhaustive"]
    assert summary.steps == 4, "nine samples of eight a step, twice"
    for arm in summary.arms:
        assert [point.step for point in arm.curve] == [0, 2, 4]
        assert arm.curve[0].loss == summary.untrained.loss
        assert arm.curve[-1].loss == pytest.approx(np.mean(arm.losses))
        for seed in (0, 1):
            trial = folder.path / "arms" / arm.arm / f"seed-{seed}"
            assert not list(trial.glob("checkpoint-*")), "only the last checkpoint stays"
            assert (trial / "checkpoint" / "adapter_model.safetensors").exists()
    assert sum(isinstance(event, Stepped) for event in events) == 3 * 2 * 4
    assert sum(isinstance(event, Evaluated) for event in events) == 3 * 2 * 2 + 1


def test_the_summary_says_what_arms_trained_on_and_how_far_they_are_apart(
    whole: tuple[StudySummary, RunFolder, list[Event]],
):
    arms = {arm.arm: arm for arm in whole[0].arms}
    assert arms["selected"].material.samples == arms["random"].material.samples == 9
    assert arms["selected"].material.of_selected == 1.0
    found = arms["selected"].against["random"]
    assert found.mean == pytest.approx(np.mean(arms["selected"].losses) - np.mean(arms["random"].losses))
    assert found.low <= found.mean <= found.high
    back = arms["random"].against["selected"]
    assert back.mean == pytest.approx(-found.mean)
    assert found.p == pytest.approx(back.p)
    assert found.better + back.better == found.seeds == 2
    assert arms["selected"].against["none"].mean == pytest.approx(
        np.mean(arms["selected"].losses) - whole[0].untrained.loss
    )


def test_the_csv_has_every_point(whole: tuple[StudySummary, RunFolder, list[Event]]):
    summary, folder, _ = whole
    with (folder.path / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + 3 * 2 * 2
    at_end = [float(row["loss"]) for row in rows if row["arm"] == "random" and row["step"] == "4"]
    arms = {arm.arm: arm for arm in summary.arms}
    assert at_end == pytest.approx(arms["random"].losses, abs=1e-6)


def test_a_study_that_was_interrupted_repeats_nothing_and_ends_alike(
    whole: tuple[StudySummary, RunFolder, list[Event]], config: RunConfig, selected: RunFolder, tmp_path: Path
):
    class Crash(Exception):
        pass

    steps: list[int] = []
    judged: list[str] = []

    def crashing(event: Event) -> None:
        if isinstance(event, Stepped):
            steps.append(event.step)
        if isinstance(event, Evaluated):
            judged.append(event.what)
            if len(judged) == 6:
                raise Crash

    folder = RunFolder(tmp_path / "run")
    with pytest.raises(Crash):
        study_in_process(on(selected, config), folder, selected, crashing)
    again: list[Event] = []
    summary = study_in_process(on(selected, config), folder, None, again.append)
    assert len(steps) + sum(isinstance(event, Stepped) for event in again) == 3 * 2 * 4, "no step is made twice"
    assert summary.model_dump() == whole[0].model_dump()
    assert (folder.path / "study.csv").read_bytes() == (whole[1].path / "study.csv").read_bytes()


def test_random_samples_are_drawn_anew_for_each_seed_and_alike_for_the_same(selected: RunFolder):
    pool, _ = open_prepared(selected)
    first, again, other = (random_subset(pool, 9, seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert len(set(first.tolist())) == 9


def test_matched_samples_are_as_long_as_those_they_match(selected: RunFolder):
    pool, _ = open_prepared(selected)
    short = np.argsort(pool.label_counts_N, kind="stable")[:12]
    matched = matched_subset(pool, short, 0)
    assert len(set(matched.tolist())) == 12
    labels = [pool.label_counts_N[samples].mean() for samples in (short, matched, random_subset(pool, 12, 0))]
    assert labels[1] < 1.5 * labels[0] < labels[2]


def test_arms_may_be_files_of_ids(config: RunConfig, selected: RunFolder, tmp_path: Path):
    pool, _ = open_prepared(selected)
    (tmp_path / "mine.txt").write_text("\n".join(pool.ids[sample] for sample in (3, 5, 7)) + "\n")
    files = {"mine": str(tmp_path / "mine.txt"), "selected": str(selected.selection_file)}
    study = {"files": files, "arms": ("matched", "whole"), "seeds": 1, "points": 1, "epochs": 1}
    asked = config.model_copy(update={"study": config.study.model_copy(update=study)})
    summary = study_in_process(asked, RunFolder(tmp_path / "run"), None, lambda event: None)
    samples = {arm.arm: arm.material.samples for arm in summary.arms}
    assert samples == {"matched": 9, "whole": 96, "mine": 3, "selected": 9}
    assert summary.steps == 2, "the selected subset settles the steps of all"
    assert all(arm.against["none"].p is None for arm in summary.arms), "one seed is no test"


def test_held_out_examples_that_are_not_held_out_are_refused(config: RunConfig, selected: RunFolder, tmp_path: Path):
    rows = selected.selection_file.read_text().splitlines()
    chat = {key: json.loads(rows[0])[key] for key in ("id", "messages")}
    (tmp_path / "leaked.jsonl").write_text(json.dumps(chat) + "\n")
    held_out = config.evaluation.held_out.model_copy(update={"path": str(tmp_path / "leaked.jsonl")})
    asked = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"held_out": held_out})})
    with pytest.raises(DataError, match="1 of 1 held-out examples are also trained on by arm selected"):
        study_in_process(on(selected, asked), RunFolder(tmp_path / "run"), selected, lambda event: None)


def test_what_cannot_be_studied_is_named(config: RunConfig, selected: RunFolder, tmp_path: Path):
    (tmp_path / "odd.txt").write_text("nobody\n")
    odd = on(selected, config, files={"selected": str(tmp_path / "odd.txt")})
    with pytest.raises(DataError, match=r"odd\.txt \(arm selected\) names 1 ids that the pool does not have.*'nobody'"):
        study_in_process(odd, RunFolder(tmp_path / "odd"), selected, lambda event: None)
    with pytest.raises(ConfigError, match="there is no selection"):
        study_in_process(config, RunFolder(tmp_path / "none"), None, lambda event: None)
    bare = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"held_out": None})})
    with pytest.raises(ConfigError, match="--held-out"):
        study_in_process(bare, RunFolder(tmp_path / "bare"), None, lambda event: None)
    assert not (tmp_path / "bare").exists()
