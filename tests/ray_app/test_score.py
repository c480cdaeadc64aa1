"""Scoring given rows finds what a selection finds for them in its pool."""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from selection_cases import config_of, run_here, small_selection

from clusterucb.errors import DataError
from clusterucb.run.run_folder import RunFolder
from clusterucb.run.summary import read_summary
from ray_app.cli import main
from ray_app.score import print_scores, scored_rows, scoring_config


def influence_of(folder: RunFolder) -> dict[str, float]:
    table = pq.read_table(folder.scores_file, columns=["id", "influence"])
    return dict(zip(table["id"].to_pylist(), table["influence"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return small_selection(tmp_path_factory.mktemp("material"), rows=60)


@pytest.fixture(scope="module")
def rows(settings: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rows of the pool, and one without anything to learn from."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    chosen = Path(settings["pool"]["path"]).read_text().splitlines()[3:43:5]
    long = {"id": "long", "prompt": "why " * 50, "completion": "so"}
    path.write_text("\n".join([*chosen, json.dumps(long)]) + "\n")
    return path


@pytest.mark.parametrize("kind", ["hidden", "gradient"])
def test_influence_is_what_a_selection_finds(settings: dict[str, object], rows: Path, tmp_path: Path, kind: str):
    config = config_of(settings, f"features.kind={kind}", "gradients.batch_tokens=1")
    everything = influence_of(run_here(config_of(settings, "search.allocator.kind=exhaustive"), tmp_path / "pool"))
    folder = run_here(scoring_config(config, rows), tmp_path / "rows")
    found = list(scored_rows(folder))
    assert [row.rank for row in found] == list(range(1, 9))
    assert [row.influence for row in found] == sorted((row.influence for row in found), reverse=True)
    for row in found:
        assert row.influence == pytest.approx(everything[row.id], abs=1e-5)
        assert row.loss > 0
        assert row.starts_with
    console = Console(width=120, record=True, quiet=False, file=(tmp_path / "screen").open("w"))
    print_scores(read_summary(folder), folder, console)
    text = console.export_text()
    assert "scored 8 of 9 rows" in text
    assert "1 left out: no_label_tokens" in text
    assert all(row.id in text for row in found)


def test_rows_that_are_not_there_are_named(settings: dict[str, object], tmp_path: Path):
    with pytest.raises(DataError, match=r"none\.jsonl"):
        run_here(scoring_config(config_of(settings), tmp_path / "none.jsonl"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.ray
def test_the_command_prints_a_line_for_each_row(
    settings: dict[str, object],
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    config, out = tmp_path / "config.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump(settings))
    words = ["score", str(config), str(rows), "--out", str(out), "--json", "--address", "local"]
    monkeypatch.setattr(sys, "argv", ["clusterucb", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [row.model_dump() for row in scored_rows(RunFolder(out))]
    assert len(printed) == 8
