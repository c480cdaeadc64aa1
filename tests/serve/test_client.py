"""The client and its verbs against a live service: what they bring is what the run wrote, whatever the network does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import httpx2
import pyarrow.parquet as pq
import pytest
from live_service import LiveService, live_service, service_config
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clusterucb.run.events import Event, parse_event
from ray_app.client import Client, Forbidden, Invalid, Missing, RunCancelled, RunFailed, Unauthorized, Unreachable
from ray_app.client.connection import Connection
from ray_app.client.events import follow, messages
from ray_app.service.records import RunRecord

WANTED = {"pool": "mixed", "checkpoint": "tiny", "target": "sums", "budget": 0.4}
ROWS = [{"id": "a", "prompt": "one", "completion": "two"}]


def client_of(service: LiveService, who: str = "ann") -> Client:
    return Client(service.url, service.secrets[who], patience_s=5)


def breaking(after: int, cleanly: bool) -> Callable[[ASGIApp], ASGIApp]:
    """End every event stream after some chunks, before its first for zero; where not cleanly, cut the wire."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def cut(scope: Scope, receive: Receive, send: Send) -> None:
            left = after

            async def counted(message: Message) -> None:
                nonlocal left
                if message["type"] == "http.response.body":
                    if left == 0:
                        raise ConnectionResetError("the wire is cut")
                    left -= 1
                await send(message)

            try:
                await app(scope, receive, counted if scope.get("path", "").endswith("/events") else send)
            except ConnectionResetError:
                if not cleanly:
                    raise
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        return cut

    return wrap


def test_a_selection_is_waited_for_and_brought(service: LiveService, tmp_path: Path) -> None:
    seen: list[Event] = []
    with client_of(service) as client:
        run = client.select(**WANTED, share=0.05, search={"rounds": {"first": 4}}).wait(progress=seen.append)
        assert run.record.status == "finished"
        there = Path(service.config.folder) / "runs" / run.id
        assert seen == [parse_event(line) for line in (there / "events.jsonl").open()]
        assert list(run.rows()) == [json.loads(line) for line in (there / "selection.jsonl").open()]
        assert [row["rank"] for row in run.ids(first=2, last=3)] == [2, 3]
        assert run.scores().equals(pq.read_table(there / "scores.parquet"))
        assert run.summary()["selected"] == 8
        kept = run.download(tmp_path / "mine.parquet", "parquet")
        assert kept.read_bytes() == (there / "scores.parquet").read_bytes()
        assert next(client.runs(status="finished")).record == run.record


@pytest.mark.parametrize(("after", "cleanly"), [(1, True), (2, False)])
def test_a_stream_that_breaks_off_goes_on_without_gap_or_repeat(tmp_path: Path, after: int, cleanly: bool) -> None:
    config = service_config(tmp_path)
    with live_service(config, wrap=breaking(after, cleanly)) as service, client_of(service) as client:
        seen: list[Event] = []
        run = client.select(**WANTED).wait(progress=seen.append)
        there = Path(config.folder) / "runs" / run.id / "events.jsonl"
        assert seen == [parse_event(line) for line in there.open()]


def refusing(times: int, status: int) -> Callable[[ASGIApp], ASGIApp]:
    """Refuse the first event streams."""
    left = times

    def wrap(app: ASGIApp) -> ASGIApp:
        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal left
            if left == 0 or not scope.get("path", "").endswith("/events"):
                return await app(scope, receive, send)
            left -= 1
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        return refuse

    return wrap


@pytest.mark.parametrize("status", [500, 429])
def test_no_event_is_lost_where_streams_are_refused_for_a_while(tmp_path: Path, status: int) -> None:
    config = service_config(tmp_path)
    with live_service(config, wrap=refusing(6, status)) as service, client_of(service) as client:
        seen: list[Event] = []
        run = client.select(**WANTED).wait(progress=seen.append)
        there = Path(config.folder) / "runs" / run.id / "events.jsonl"
        assert run.record.status == "finished"
        assert seen == [parse_event(line) for line in there.open()]


def test_where_no_stream_gets_through_the_run_is_asked_for(tmp_path: Path) -> None:
    with live_service(service_config(tmp_path), wrap=breaking(0, True)) as service, client_of(service) as client:
        assert client.select(**WANTED).wait().record.status == "finished"


def test_refusals_are_exceptions_with_their_problem(service: LiveService, finished: str) -> None:
    with client_of(service) as client, client_of(service, "eve") as reader, client_of(service, "bob") as other:
        with pytest.raises(Invalid, match="it has mixed") as invalid:
            client.select(**WANTED | {"pool": "elsewhere"})
        assert invalid.value.problem["errors"][0]["field"] == "pool"
        with pytest.raises(Forbidden, match="needs submit"):
            reader.select(**WANTED)
        with pytest.raises(Missing):
            other.run(finished)
    with pytest.raises(Unauthorized), Client(service.url, "cucb_" + "x" * 43) as stranger:
        stranger.catalogue("pools")
    with pytest.raises(Unreachable, match="is the service there"), Client("http://127.0.0.1:9", "x", 0) as nowhere:
        nowhere.catalogue("pools")


def test_a_run_that_fails_or_is_cancelled_says_so(tmp_path: Path) -> None:
    config = service_config(tmp_path)
    with live_service(config) as service, client_of(service) as client:
        with pytest.raises(RunFailed, match="the cold start") as failed:
            client.select(**WANTED | {"budget": 0.06}, clusters={"k": 50}).wait()
        assert str(tmp_path) not in str(failed.value)
        run = client.select(**WANTED)
        with pytest.raises(RunCancelled):
            run.wait(progress=lambda event: run.cancel())


def test_scores_and_targets(service: LiveService) -> None:
    with client_of(service) as client:
        assert [score.id for score in client.score(ROWS, checkpoint="tiny", target=ROWS).scores] == ["a"]
        assert client.upload_target("spare", ROWS).rows == 1
        assert "spare" in {target["name"] for target in client.catalogue("targets")}
        client.delete_target("spare")
        assert client.plan(**WANTED).budget == 64


def test_messages_pass_over_comments_and_half_a_message() -> None:
    lines = ["id: 3", "event: note", 'data: {"a":', "data: 1}", "", ": still here", "", "event: record", "data: x"]
    assert [(found.kind, found.data, found.id) for found in messages(iter(lines))] == [("note", '{"a":\n1}', 3)]


def test_the_verbs_select_and_fetch(service: LiveService, tmp_path: Path) -> None:
    rows = tmp_path / "examples.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def verb(*arguments: str, code: int = 0) -> str:
        env = os.environ | {"CLUSTERUCB_SERVER": service.url, "CLUSTERUCB_TOKEN": service.secrets["ann"]}
        command = [sys.executable, "-m", "ray_app", "remote", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    out = tmp_path / "selected.jsonl"
    names = ("--pool", "mixed", "--checkpoint", "tiny", "--target", str(rows), "--budget", "0.4")
    told = verb("select", *names, "--set", "search.rounds.first=4", "--out", str(out), "--json").splitlines()[-1]
    run = RunRecord.model_validate_json(told)
    assert run.status == "finished"
    assert out.read_bytes() == (Path(service.config.folder) / "runs" / run.id / "selection.jsonl").read_bytes()
    assert json.loads(verb("result", run.id, "--ids", "--last", "1"))["rank"] == 1
    several = ("--target", "sums", "--weight", "sums=2")
    planned = json.loads(verb("plan", *names, *several, "--json"))
    assert planned["subtasks"] == 2
    assert "no --target is called birds" in verb("plan", *names, *several, "--weight", "birds=1", code=2)
    assert "did you mean 'search'" in verb("select", *names, "--set", "serch.budget=1", code=2)


class NoStreams:
    """A connection on which whatever streams is cut before its first word, and anything else is answered."""

    def __init__(self, records: list[RunRecord]) -> None:
        self._records = records
        self.asked = 0

    @contextmanager
    def stream(self, path: str, **_: object) -> Iterator[httpx2.Response]:
        self.asked += 1
        raise httpx2.ReadError("cut")
        yield

    def ask(self, method: str, path: str, **_: object) -> httpx2.Response:
        found = self._records[0] if len(self._records) == 1 else self._records.pop(0)
        return httpx2.Response(200, content=found.model_dump_json())

    def sleep(self, seconds: float) -> None: ...


def test_a_client_that_no_stream_reaches_still_sees_the_end(service: LiveService, finished: str) -> None:
    with client_of(service) as client:
        ended = client.run(finished).record
    going = ended.model_copy(update={"status": "running", "finished": None, "outcome": None})
    connection = NoStreams([going] * 8 + [ended])
    told = list(follow(cast(Connection, connection), finished))
    assert [record.status for record in told if isinstance(record, RunRecord)] == ["running", "finished"]
    assert connection.asked < 20, "streams are given up"
