"""The verbs that judge: what is wrong is said in one line."""

import json
from pathlib import Path

import yaml
from typer.testing import CliRunner

from ray_app.cli import app


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
