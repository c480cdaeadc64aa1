"""Results over HTTP are the run's own files, and parts of them."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from live_service import LiveService

from ray_app.client import Client, Run

PARQUET = "application/vnd.apache.parquet"


def test_everything_is_the_runs_own_bytes(service: LiveService, finished: str, folder: Path) -> None:
    with service.http() as http:
        lines = http.get(f"/v1/selections/{finished}/result")
        table = http.get(f"/v1/selections/{finished}/result", headers={"Accept": PARQUET})
        again = http.get(f"/v1/selections/{finished}/result", params={"format": "parquet"})
    assert lines.content == (folder / "selection.jsonl").read_bytes()
    assert table.content == again.content == (folder / "scores.parquet").read_bytes()
    assert (lines.headers["Content-Type"], table.headers["Content-Type"]) == ("application/x-ndjson", PARQUET)


def test_a_range_of_ranks_is_those_lines(service: LiveService, finished: str, folder: Path) -> None:
    whole = (folder / "selection.jsonl").read_bytes().splitlines(keepends=True)
    with service.http() as http:
        part = http.get(f"/v1/selections/{finished}/result", params={"first": 3, "last": 5})
        beyond = http.get(f"/v1/selections/{finished}/result", params={"first": 10**6})
        backwards = http.get(f"/v1/selections/{finished}/result", params={"first": 3, "last": 2})
        table = http.get(f"/v1/selections/{finished}/result", params={"first": 3, "last": 5, "format": "parquet"})
    assert part.content == b"".join(whole[2:5])
    assert beyond.content == b""
    assert backwards.status_code == 422
    assert pq.read_table(io.BytesIO(table.content))["rank"].to_pylist() == [3, 4, 5]


def test_ids_come_without_rows(service: LiveService, finished: str, folder: Path) -> None:
    rows = [json.loads(line)["clusterucb"] for line in (folder / "selection.jsonl").open()]
    with service.http() as http:
        lines = http.get(f"/v1/selections/{finished}/result", params={"fields": "ids"}).text.splitlines()
        table = http.get(f"/v1/selections/{finished}/result", params={"fields": "ids", "format": "parquet"})
    names = ("id", "rank", "influence")
    assert [json.loads(line) for line in lines] == [{name: row[name] for name in names} for row in rows]
    assert pq.read_table(io.BytesIO(table.content)).column_names == list(names)


def test_other_formats_and_early_results_are_refused(service: LiveService, finished: str) -> None:
    with service.http() as http:
        assert http.get(f"/v1/selections/{finished}/result", headers={"Accept": "text/csv"}).status_code == 406
        assert http.get(f"/v1/selections/{finished}/result", params={"format": "csv"}).status_code == 422


def test_the_summary_is_there_and_the_report_once_it_is_written(
    service: LiveService, finished: str, folder: Path
) -> None:
    with service.http() as http:
        assert http.get(f"/v1/selections/{finished}/summary").json()["selected"] == 8
        report = folder / "report.html"
        report.unlink(missing_ok=True)
        assert http.get(f"/v1/selections/{finished}/report").status_code == 404
        report.write_text("<!doctype html><title>a report</title>")
        found = http.get(f"/v1/selections/{finished}/report")
        assert found.text == report.read_text()
        assert "sandbox" in found.headers["Content-Security-Policy"]
        report.unlink()


@pytest.fixture(scope="module")
def shared(service: LiveService, body: dict[str, object]) -> Run:
    """A run for two targets, one of the catalogue and one sent along, with everything that a selection can wish."""
    rows = [{"prompt": "wing song egg", "completion": "owl lark wren crow"}]
    wishes = {
        "targets": [{"name": "sums", "weight": 2.0}, {"name": "mine", "rows": rows}],
        "gates": {"near": {"policy": "report", "threshold": 0.6}},
        "search": {"budget": 0.4, "rounds": {"first": 4}, "allocator": {"kind": "predictive"}},
        "selection": {
            "share": 0.05,
            "joint": "mean",
            "caps": {"source": {"share": 0.5}, "near_duplicate": {"count": 1}},
            "normalise": {"kind": "length_quantile", "buckets": 3},
            "diversity": {"kind": "log_determinant"},
        },
    }
    with Client(service.url, service.secrets["ann"], patience_s=5) as client:
        asked = {key: value for key, value in body.items() if key != "target"}
        yield client.select(**asked | wishes).wait()


def test_every_target_has_its_selection_and_all_have_one(service: LiveService, shared: Run, tmp_path: Path) -> None:
    there = Path(service.config.folder) / "runs" / shared.id
    assert shared.record.targets == ("sums", "mine")
    assert shared.record.target == "sums, mine"
    for target, name in ((None, "selection.jsonl"), ("sums", "selection-sums.jsonl"), ("mine", "selection-mine.jsonl")):
        rows = [json.loads(line) for line in (there / name).open()]
        assert len(rows) == 8
        assert list(shared.rows(target=target)) == rows
        assert shared.download(tmp_path / name, target=target).read_bytes() == (there / name).read_bytes()
        told = [{key: row["clusterucb"][key] for key in ("id", "rank")} for row in rows]
        assert [{key: row[key] for key in ("id", "rank")} for row in shared.ids(target=target)] == told
        table = shared.scores(first=1, last=3, target=target)
        assert table["id"].to_pylist() == [row["id"] for row in rows[:3]]
    summary = shared.summary()
    assert [each["name"] for each in summary["targets"]] == ["sums", "mine"]
    assert [cap["cap"] for cap in summary["caps"]] == ["source", "near_duplicate"]
    with service.http() as http:
        view = http.get(f"/v1/selections/{shared.id}/view").json()
        assert [each["name"] for each in view["targets"]] == ["sums", "mine"]


def test_a_target_that_a_run_has_not_is_named(service: LiveService, shared: Run, finished: str) -> None:
    with service.http() as http:
        for run, words in ((shared.id, "it has sums, mine"), (finished, "leave target out")):
            answer = http.get(f"/v1/selections/{run}/result", params={"target": "birds"})
            assert answer.status_code == 422
            assert words in answer.json()["detail"]
        assert http.get(f"/v1/selections/{shared.id}/result", params={"target": "../sums"}).status_code == 422
