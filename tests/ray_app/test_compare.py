"""A comparison end to end: reference and features through Ray once, everything after that without a cluster."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from selection_cases import config_of, run_here, small_selection
from typer.testing import CliRunner

from clusterucb.compare.comparison_table import Comparison
from clusterucb.compare.reference import read_reference
from clusterucb.errors import ConfigError
from clusterucb.run.run_folder import RunFolder
from ray_app.cli import app
from ray_app.cluster import LOCAL
from ray_app.compare import Wanted, compare_runs

NOWHERE = "192.0.2.1:1"
"""No cluster is there: whoever connects fails."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return small_selection(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def out(settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished comparison."""
    folder = tmp_path_factory.mktemp("compared") / "out"
    config = config_of(settings)
    compare_runs(config, Wanted(("ucb_beta", "uniform"), (), (0.4,), 1), RunFolder(folder), LOCAL, "quiet")
    return folder


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "compare.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.ray
def test_a_comparison_leaves_table_means_and_plot(out: Path):
    comparison = Comparison.model_validate_json((out / "compare.json").read_text())
    assert comparison.pool == 160
    assert [(line.features, line.allocator) for line in comparison.lines] == [
        ("none", "exhaustive"), ("none", "uniform"), ("hidden", "ucb_beta"), ("gradient", "ucb_beta"),
    ]  # fmt: skip
    exhaustive = comparison.lines[0]
    assert (exhaustive.recall.mean, exhaustive.cost.mean) == pytest.approx((1.0, 1.0))
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "compare.svg").read_text()


@pytest.mark.ray
def test_other_allocators_budgets_and_clusters_compute_nothing_again(settings, out: Path):
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/state/*.journal")}
    wanted = Wanted(("ucb1", "thresh_normal"), ("gradient", "hidden"), (0.3, 0.5), 2)
    found = compare_runs(
        config_of(settings, "clusters.k=5", "selection.count=9"), wanted, RunFolder(out), NOWHERE, "quiet"
    )
    assert found.selected == 9
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/state/*.journal")} == before
    assert len(rows_of(out)) == 1 + 2 * 2 * 2 * 2


@pytest.mark.ray
def test_a_trial_draws_what_the_run_draws_and_costs_what_it_costs(settings, out: Path, tmp_path: Path):
    config = config_of(settings, "audit.samples=0")
    compare_runs(config, Wanted(("ucb_beta",), ("hidden",), (0.4,), 1), RunFolder(out), NOWHERE, "quiet")
    trial = rows_of(out)[1]
    run = run_here(config, tmp_path / "run")
    summary = json.loads(run.summary_file.read_text())
    rewards_N = read_reference(RunFolder(out / "reference")).rewards_N
    best = np.sort(rewards_N)[::-1][: summary["selected"]].sum()
    with run.selection_file.open() as file:
        selected = sum(json.loads(line)["clusterucb"]["influence"] for line in file)
    assert float(trial["influence"]) == pytest.approx(selected / best, rel=1e-4)
    assert float(trial["gradients"]) == pytest.approx(summary["scored"] / summary["usable"])
    assert float(trial["cost"]) == pytest.approx(summary["cost"]["share_of_exhaustive_tokens"], rel=1e-3)
    assert int(trial["clusters"]) == len(summary["by_cluster"])


def test_what_the_configuration_cannot_give_is_refused_before_anything_runs(settings, tmp_path: Path):
    wanted = Wanted(("ucb1",), ("embedding",), (0.2,), 1)
    with pytest.raises(ConfigError, match=r"features\.encoder"):
        compare_runs(config_of(settings), wanted, RunFolder(tmp_path / "out"), NOWHERE, "quiet")
    assert not (tmp_path / "out").exists()


def test_a_recorded_table_needs_no_configuration(tmp_path: Path):
    rng = np.random.default_rng(0)
    hidden_NF = rng.normal(size=(200, 8))
    np.savez(tmp_path / "table.npz", hidden=hidden_NF, influence_sums=hidden_NF[:, :2])
    arguments = ["compare", "--table", str(tmp_path / "table.npz"), "--out", str(tmp_path / "out"), "--budgets", "0.3"]
    shown = CliRunner().invoke(app, [*arguments, "--set", "clusters.k=6", "--seeds", "2", "--quiet"])
    assert shown.exit_code == 0, shown.output
    assert "thresh_normal" in shown.output
    assert {row["clusters"] for row in rows_of(tmp_path / "out")} == {"1", "6"}
    told = CliRunner().invoke(app, [*arguments, "--json", "--allocators", "uniform"])
    assert Comparison.model_validate_json(told.stdout).lines[1].allocator == "uniform"


def test_neither_configuration_nor_table_is_a_mistake(settings, tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    for arguments, message in (
        (["compare"], "give CONFIG, or a recorded table"),
        (["compare", str(config), "--budgets", "many", "--out", str(tmp_path)], "is no list of shares"),
    ):
        error = CliRunner().invoke(app, arguments).exception
        assert isinstance(error, ConfigError)
        assert message in str(error)
