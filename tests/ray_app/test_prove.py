"""The verbs that judge, end to end through Ray: a study of a finished run, and an evaluation of what it trained."""

import json
from pathlib import Path

import pytest
import yaml
from selection_cases import run_here, write_rows
from training_cases import training_config
from typer.testing import CliRunner

from clusterucb.evaluation.summary import EvaluationSummary
from clusterucb.run.events import Evaluated, Stepped, parse_event
from clusterucb.run.run_folder import RunFolder
from clusterucb.study.result import StudySummary
from ray_app.cli import app

NOWHERE = "192.0.2.1:1"
"""No cluster is there: whoever connects fails."""


def told(*words: object) -> str:
    """Run the command line; return what it prints."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.exception or result.output
    return result.output


@pytest.mark.ray
def test_a_study_of_a_run_and_an_evaluation_of_what_it_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")
    held_out = write_rows(tmp_path / "held-out.jsonl", 6, ["sums"], seed=3)
    config = training_config(tmp_path, "search.cold_start_min=1", "selection.share=0.1", "audit.samples=0", rows=96)
    run = run_here(config, tmp_path / "run")
    asked = (
        *("study", run.path, "--held-out", held_out, "--out", tmp_path / "study"),
        *("--set", "study.seeds=2", "--set", "study.points=2", "--set", 'study.arms=["selected", "random"]', "--quiet"),
    )
    printed = told(*asked)
    assert "selected" in printed
    assert "no training" in printed
    folder = RunFolder(tmp_path / "study")
    summary = StudySummary.model_validate_json(folder.summary_file.read_bytes())
    assert [len(arm.losses) for arm in summary.arms] == [2, 2]
    for name in ("study.csv", "study.png", "study.svg"):
        assert (folder.path / name).stat().st_size > 0
    events = [parse_event(line) for line in folder.events_file.read_text().splitlines()]
    assert sum(isinstance(event, Stepped) for event in events) == 2 * 2 * summary.steps
    assert sum(isinstance(event, Evaluated) for event in events) == 2 * 2 * 2 + 1
    assert "selected, seed 1 2 of 2, done" in told("status", folder.path)
    assert told(*asked, "--address", NOWHERE) == printed, "a finished study answers without a cluster"

    trained = folder.path / "arms" / "selected" / "seed-0" / "checkpoint"
    words = ("evaluate", run.path, "--held-out", held_out, "--checkpoint", trained, "--out", tmp_path / "judged")
    told(*words, "--quiet")
    judged = EvaluationSummary.model_validate_json((tmp_path / "judged" / "summary.json").read_bytes())
    assert judged.adapter == str(trained)
    assert judged.held_out.loss == pytest.approx(summary.arms[0].losses[0], rel=1e-6)
    assert told("resume", tmp_path / "judged", "--quiet", "--address", NOWHERE) == told(
        *words, "--quiet", "--address", NOWHERE
    )


def test_mistakes_are_one_line(tmp_path: Path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"pool": {"path": "p"}, "target": {"path": "t"}}))
    runner = CliRunner()
    for words, said in (
        (("study", tmp_path / "nothing", "--held-out", "x"), "holds no run"),
        (("study", tmp_path / "config.yaml", "--arm", "odd"), "--arm odd is not of the form NAME=FILE"),
        (("evaluate", tmp_path / "config.yaml"), "model is missing"),
    ):
        result = runner.invoke(app, [str(word) for word in words])
        assert said in str(result.exception), json.dumps([str(result.exception), result.output])
