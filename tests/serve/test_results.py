"""Results over HTTP are the run's own files, and parts of them."""

import io
import json
from pathlib import Path

import pyarrow.parquet as pq
from live_service import LiveService

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
