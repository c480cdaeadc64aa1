"""A loop in one process: every mode ends, and an interruption anywhere changes no byte."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from selection_cases import result_of
from training_cases import files_of, training_config
from transformers import AutoModelForCausalLM

from clusterucb.config import RunConfig
from clusterucb.errors import ConfigError, RunFolderError
from clusterucb.loop.in_process import loop_in_process
from clusterucb.loop.periods import check_loop
from clusterucb.loop.report import render_loop
from clusterucb.loop.summary import rank_correlation
from clusterucb.run.events import Event
from clusterucb.run.run_folder import RunFolder
from clusterucb.training.checkpoint import read_record

SMALL = ("warmup.share=0.3", "search.cold_start_min=1", "selection.share=0.1", "audit.samples=8", "loop.periods=2")


def small(folder: Path, *overrides: str) -> RunConfig:
    folder.mkdir(exist_ok=True)
    return training_config(folder, *SMALL, *overrides, rows=96)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return small(tmp_path_factory.mktemp("loop"))


@pytest.fixture(scope="module")
def whole(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loop that nothing interrupts."""
    folder = RunFolder(tmp_path_factory.mktemp("whole") / "run")
    loop_in_process(config, folder, lambda event: None)
    return folder.path


def rows_of(selection: Path) -> list[str]:
    return [json.loads(line)["id"] for line in (selection / "selection.jsonl").read_text().splitlines()]


def test_the_papers_schedule_selects_first_from_everything_then_by_search(whole: Path):
    first, second = (pq.read_table(whole / f"period-{i}" / "scores.parquet") for i in (1, 2))
    assert set(first["stage"].to_pylist()) == {"pool"}
    assert len(first) == 96
    assert set(second["stage"].to_pylist()) == {"search", "audit"}
    clusters = [np.load(whole / f"period-{i}" / "state" / "clusters.npz")["labels_N"] for i in (1, 2)]
    assert np.array_equal(*clusters), "the first period's clusters are kept"
    assert len(set(rows_of(whole / "period-2"))) == 9
    warm = RunFolder(whole / "period-2").read_config().search.warm_start
    assert warm is not None
    assert warm.path == str(whole / "period-1")
    steps = [read_record(whole / f"training-{i}" / "checkpoint") for i in (1, 2)]
    assert [record.step for record in steps] == [2, 4], "the step counter runs on"
    assert all(record.schedule_steps == 4 for record in steps)
    rates = [step.learning_rate for record in steps for step in record.steps]
    assert rates == sorted(rates, reverse=True), "one schedule spans the periods"
    assert files_of(whole / "adapter") == files_of(whole / "training-2" / "checkpoint")


def test_a_loop_that_crashes_again_and_again_ends_with_the_same_bytes(config: RunConfig, whole: Path, tmp_path: Path):
    class Crash(Exception):
        pass

    crashes, folder = 0, RunFolder(tmp_path / "run")
    stages: set[str] = set()
    while True:
        left = 17 + crashes  # events until the next crash, so that they strike at ever other places

        def emit(event: Event) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                stages.add(getattr(event, "stage", event.event))
                raise Crash

        try:
            loop_in_process(config, folder, emit)
            break
        except Crash:
            crashes += 1
            assert crashes < 60, "the loop gets nowhere"
    assert {"training", "pool", "search"} <= stages
    for period in ("period-1", "period-2"):
        assert result_of(RunFolder(folder.path / period)) == result_of(RunFolder(whole / period))
    for checkpoint in ("warmup/checkpoint", "training-1/checkpoint", "adapter"):
        assert files_of(folder.path / checkpoint).keys() == files_of(whole / checkpoint).keys()
        for name in ("adapter_model.safetensors", "moments.safetensors"):
            assert files_of(folder.path / checkpoint)[name] == files_of(whole / checkpoint)[name]


def test_the_report_leads_to_every_period_and_runs_nothing(whole: Path, tmp_path: Path):
    page = render_loop(RunFolder(whole))
    for period in (1, 2):
        assert f'<a href="period-{period}/report.html">' in page
    assert "2 of 2 periods are over" in page
    assert page.count("<polyline") == 3, "warm-up and two trainings"
    half = shutil.copytree(whole, tmp_path / "<script>")
    shutil.rmtree(half / "training-2")
    (half / "period-2" / "summary.json").unlink()
    page = render_loop(RunFolder(half))
    assert "1 of 2 periods are over" in page
    assert '<a href="period-2/report.html">' in page, "what is begun is shown too"
    assert page.count("<polyline") == 2
    assert "<script" not in page
    assert "default-src 'none'" in page


def test_the_first_period_may_search_and_train_on_from_the_warm_up(tmp_path: Path):
    config = small(
        tmp_path, "loop.first=search", "loop.keep_warmup=true", "loop.clusters=remake",
        "search.allocator.kind=predictive", "loop.merge=true",
    )  # fmt: skip
    summary = loop_in_process(config, RunFolder(tmp_path / "run"), lambda event: None)
    assert [period.scored for period in summary.periods] == [38, 38]
    assert read_record(tmp_path / "run" / "adapter").step == 4 + 2 + 2
    second = RunFolder(tmp_path / "run" / "period-2").read_config()
    assert second.search.warm_start is None, "prediction knows the last period in its own way"
    assert second.features.kind == "several"
    assert [part.kind for part in second.features.parts] == ["hidden", "gradient"]
    drift = summary.periods[1].drift
    assert drift is not None
    assert drift.rank_correlation is not None
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "merged")


def test_a_static_selection_weighs_checkpoints_and_takes_the_maximum_after_the_sum(tmp_path: Path):
    config = small(tmp_path, "loop.mode=static", "warmup.checkpoints=2", "loop.epochs=2", "target.subtask_field=task")
    target = tmp_path / "target.jsonl"
    rows = [json.loads(line) | {"task": "ab"[i % 2]} for i, line in enumerate(target.read_text().splitlines())]
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = loop_in_process(config, RunFolder(tmp_path / "run"), lambda event: None)
    run = tmp_path / "run"
    tables = [pq.read_table(run / f"checkpoint-{i}" / "scores.parquet").to_pydict() for i in (1, 2)]
    rates = [read_record(run / "warmup" / name).mean_learning_rate for name in ("checkpoint-2", "checkpoint")]
    weights = np.asarray(rates) / sum(rates)
    assert summary.weights == pytest.approx(weights)
    summed = sum(
        weight * np.stack([table["influence/a"], table["influence/b"]])
        for weight, table in zip(weights, tables, strict=True)
    )
    found = pq.read_table(run / "selection" / "scores.parquet").to_pydict()
    assert found["id"] == tables[0]["id"]
    assert found["influence"] == pytest.approx(summed.max(axis=0), abs=1e-6)
    best = [found["id"][i] for i in np.argsort(-np.asarray(found["influence"]), kind="stable")[:9]]
    assert rows_of(run / "selection") == best
    assert read_record(run / "adapter").step == 4, "two passes of two steps"


def test_what_cannot_be_a_loop_is_refused(config: RunConfig, whole: Path):
    model = config.model.model_copy(update={"adapter": "somewhere"})
    with pytest.raises(ConfigError, match=r"model\.adapter and model\.moments together"):
        check_loop(config.model_copy(update={"model": model}))
    check_loop(config)
    with pytest.raises(RunFolderError, match=r"was begun by `clusterucb run`"):
        RunFolder(whole).start(config, "select")


def test_rank_correlation_is_that_of_ranks():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 400]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert rank_correlation([1, 2], [1, 2]) is None
