"""Runs over HTTP: started once for each key, listed to their owner, watched to their end, cancelled."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from live_service import LiveService, live_service, service_config
from selection_cases import config_of, run_here, small_selection


def events_of(http: httpx2.Client, run: str, after: int = 0) -> list[tuple[str, str, Any]]:
    """Return the (id, kind, data) of a stream, to its end."""
    found = []
    with http.stream("GET", f"/v1/selections/{run}/events", headers={"Last-Event-ID": str(after)}) as stream:
        for message in "".join(stream.iter_text()).strip().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in message.splitlines() if not line.startswith(":"))
            if lines:
                found.append((lines.get("id", ""), lines["event"], json.loads(lines["data"])))
    return found


def test_a_selection_is_accepted_with_its_place(service: LiveService, body: dict[str, object]) -> None:
    with service.http() as http:
        answer = http.post("/v1/selections", json=body)
        assert answer.status_code == 202
        assert answer.headers["Location"] == f"/v1/selections/{answer.json()['id']}"
        assert http.get(answer.headers["Location"]).json()["settings"] == {"search": body["search"]}


def test_the_same_key_gives_the_same_run_and_another_request_is_refused(
    service: LiveService, body: dict[str, object]
) -> None:
    key = {"Idempotency-Key": "one"}
    with service.http() as http, service.http("bob") as other:
        first, again = (http.post("/v1/selections", json=body, headers=key) for _ in range(2))
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["id"] == again.json()["id"]
        assert "Idempotency-Replayed" not in first.headers
        assert again.headers["Idempotency-Replayed"] == "true"
        refused = http.post("/v1/selections", json=body | {"seed": 1}, headers=key)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
        assert other.post("/v1/selections", json=body, headers=key).json()["id"] != first.json()["id"]


def test_lists_are_pages_of_ones_own_runs_newest_first(service: LiveService, finished: str) -> None:
    with service.http() as http, service.http("eve") as reader, service.http("root") as admin:
        whole = http.get("/v1/selections", params={"limit": 100}).json()["runs"]
        assert [run["id"] for run in whole] == sorted((run["id"] for run in whole), reverse=True)
        assert {run["owner"] for run in whole} == {"ann"}
        paged, before = [], None
        while True:
            page = http.get("/v1/selections", params={"limit": 2} | ({"before": before} if before else {})).json()
            paged += page["runs"]
            if (before := page["next"]) is None:
                break
        assert [run["id"] for run in paged] == [run["id"] for run in whole]
        assert reader.get("/v1/selections").json() == {"runs": [], "next": None}
        assert finished in {run["id"] for run in admin.get("/v1/selections", params={"owner": "ann"}).json()["runs"]}
        none = http.get("/v1/selections", params={"status": "failed", "pool": "mixed"}).json()
        assert none["runs"] == []


def test_events_are_the_runs_own_and_go_on_where_a_client_stopped(
    service: LiveService, finished: str, folder: Path
) -> None:
    with service.http() as http:
        everything = events_of(http, finished)
        numbered = [(int(id), data) for id, kind, data in everything if kind != "record"]
        assert [data for _, data in numbered] == [json.loads(line) for line in (folder / "events.jsonl").open()]
        assert everything[-1][1] == "record"
        assert everything[-1][2]["status"] == "finished"
        middle = numbered[len(numbered) // 2][0]
        later = [int(id) for id, kind, _ in events_of(http, finished, middle) if kind != "record"]
        assert later == [id for id, _ in numbered if id > middle]


def test_a_watched_run_tells_its_progress_and_can_be_cancelled(tmp_path: Path, body: dict[str, object]) -> None:
    with live_service(service_config(tmp_path)) as service, service.http() as http:
        run = http.post("/v1/selections", json=body | {"search": {"budget": 0.9, "rounds": {"growth": 1.0}}}).json()[
            "id"
        ]
        with http.stream("GET", f"/v1/selections/{run}/events") as stream:
            for line in stream.iter_lines():
                if line == "event: round_planned":
                    assert http.delete(f"/v1/selections/{run}").status_code == 202
                    break
        assert events_of(http, run)[-1][2]["status"] == "cancelled"
        assert http.get(f"/v1/selections/{run}/result").status_code == 409
        assert http.delete(f"/v1/selections/{run}").json()["status"] == "cancelled"


def test_a_full_queue_says_when_to_come_again(tmp_path: Path, body: dict[str, object]) -> None:
    with (
        live_service(service_config(tmp_path, limits={"queued_runs": 1}), hold=True) as service,
        service.http() as http,
    ):
        assert http.post("/v1/selections", json=body).status_code == 202
        full = http.post("/v1/selections", json=body)
        assert (full.status_code, full.headers["Content-Type"]) == (429, "application/problem+json")
        assert int(full.headers["Retry-After"]) >= 1


def test_a_run_over_http_selects_what_a_run_in_this_process_selects(tmp_path: Path, folder: Path) -> None:
    config = config_of(small_selection(tmp_path), "search.budget=0.4", "search.rounds.first=4")
    here = run_here(config, tmp_path / "run")
    assert here.selection_file.read_bytes() == (folder / "selection.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"serch": {}}, "serch", "did you mean 'search'?"),
        ({"search": {"budget": 2}}, "search.budget", "less than or equal to 1"),
        ({"search": {"allocator": {"kind": "ucb"}}}, "search.allocator.kind", "did you mean 'ucb1'?"),
        ({"pool": "mixt"}, "pool", "it has mixed"),
        ({"selection": {"share": 0.9}}, "selection.share", "exceeds search.budget"),
        ({"target": {"rows": [{"messages": []}]}}, "target", ""),
        ({"target": {"rows": [{"prompt": "one"}]}}, "target", "prompt stands without completion"),
    ],
)
def test_problems_name_field_and_way_out(
    service: LiveService, body: dict[str, object], change: dict[str, object], field: str, says: str
) -> None:
    with service.http() as http:
        answer = http.post("/v1/selections", json=body | change)
    assert answer.status_code == 422
    mistakes = answer.json()["errors"]
    assert any(mistake["field"].startswith(field) and says in mistake["message"] for mistake in mistakes), mistakes
