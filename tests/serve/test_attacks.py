"""What strangers and users try, over a real socket: each is refused with the right word, and the service goes on."""

import hmac
import json
import logging
import socket
import time
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from live_service import LiveService, live_service, service_config

from clusterucb.errors import ConfigError
from clusterucb.settings import build_service_config
from ray_app.service.tokens import TokenFile
from serve.app import create_app
from serve.bodies import read_json
from serve.problems import Refused

JSON = {"Content-Type": "application/json"}
PROBLEM = "application/problem+json"


@pytest.fixture(autouse=True)
def _it_goes_on(service: LiveService):
    """Whatever a test did, a user is served afterwards."""
    yield
    with service.http() as http:
        assert http.get("/v1/pools").status_code == 200


def raw(
    service: LiveService, *lines: str, body: bytes = b"", who: str | None = "ann", host: str | None = None
) -> bytes:
    """Send a request as it is written, and return the answer to the end of the connection."""
    head = [lines[0], *([f"Host: {host or f'127.0.0.1:{service.port}'}"] if host != "" else [])]
    head += [f"Authorization: Bearer {service.secrets[who]}"] if who else []
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as wire:
        wire.sendall("\r\n".join([*head, *lines[1:], "Connection: close", "", ""]).encode("latin-1") + body)
        answer = b""
        while chunk := wire.recv(65536):
            answer += chunk
    return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def start(http, body: object, **more: object):
    return http.post("/v1/selections", json=body, **more)


# Who is let in


def test_nothing_but_health_and_the_files_of_the_page_is_answered_without_a_token(service: LiveService) -> None:
    with service.http() as http, service.http(None) as stranger:
        paths = http.get("/v1/openapi.json").json()["paths"]
        for path, methods in paths.items():
            for method in methods:
                place = path.format(run_id="0" * 28, name="x") if "{" in path else path
                found = stranger.request(method, place).status_code
                assert found == (200 if path in ("/healthz", "/readyz") else 401), (method, path)
        for place in ("/", "/page/app.js", "/page/plot.js"):
            assert stranger.get(place).status_code == 200, place
        for place in (
            "/page",
            "/page/",
            "/page/nothing.js",
            "/page/vendor/plot.js",
            "/page/..%2fv1/pools",
            "/docs",
            "/openapi.json",
            "/v1",
            "/v1/nothing",
            "/healthz/",
            "//healthz",
            "/readyz/../v1/pools",
        ):
            assert stranger.get(service.url + place).status_code == 401, place


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YW5uOmFubg==",
        "Bearer cucb_",
        "Bearer " + "A" * 48,
        "Bearer cucb_" + "A" * 43,
        "Token x",
    ],
)
def test_what_is_no_token_is_refused_with_the_way_to_one(service: LiveService, header: str) -> None:
    answer = raw(service, "GET /v1/pools HTTP/1.1", f"Authorization: {header}", who=None)
    assert status(answer) == 401
    assert b"www-authenticate: Bearer" in answer


def test_two_authorization_headers_are_none(service: LiveService) -> None:
    answer = raw(service, "GET /v1/pools HTTP/1.1", f"Authorization: Bearer {service.secrets['root']}")
    assert status(answer) == 401
    assert b"several Authorization headers" in answer


def test_guesses_are_slowed_down_and_users_are_not(tmp_path: Path) -> None:
    config = service_config(tmp_path, limits={"failed_authentications_per_minute": 20})
    with live_service(config) as live, live.http(None) as stranger, live.http() as http:
        guesses = [stranger.get("/v1/pools", headers={"Authorization": f"Bearer cucb_{i:043}"}) for i in range(6)]
        assert [guess.status_code for guess in guesses] == [401, 401, 429, 429, 429, 429]
        assert int(guesses[-1].headers["Retry-After"]) >= 1
        assert http.get("/v1/pools").status_code == 200


def test_every_hash_is_compared_whatever_the_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    secrets = [tokens.make(name, "read")[1] for name in ("a", "b", "c")]
    compared: list[str] = []
    honest = hmac.compare_digest

    def counted(one: str, other: str) -> bool:
        compared.append(one)
        return honest(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for guess in (secrets[0], secrets[2], "cucb_" + "x" * 43):
        compared.clear()
        tokens.find(guess)
        assert len(compared) == 3


def test_tokens_at_rest_are_hashes_for_their_owners_eyes(service: LiveService) -> None:
    kept = service.tokens.path.read_text()
    assert not any(secret in kept or secret.removeprefix("cucb_") in kept for secret in service.secrets.values())
    assert service.tokens.path.stat().st_mode & 0o077 == 0


def test_a_token_is_revoked_replaced_and_expires_without_a_restart(tmp_path: Path) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    tokens = TokenFile(tmp_path / "tokens.json", lambda: now[0])
    old, first = tokens.make("ann", "submit", days=1)
    _, second = TokenFile(tokens.path).make("ann", "submit")  # another process
    assert tokens.find(first).name == tokens.find(second).name == "ann"
    TokenFile(tokens.path).revoke(old.id)
    assert tokens.find(first) is None
    _, third = tokens.make("ann", "submit", days=1)
    now[0] += timedelta(days=2)
    assert tokens.find(third) is None
    assert tokens.find(second) is not None


def test_a_damaged_token_file_lets_nobody_in(tmp_path: Path) -> None:
    with live_service(service_config(tmp_path)) as live, live.http() as http:
        live.tokens.path.write_text("{}x")
        answer = http.get("/v1/pools")
        assert answer.status_code == 503
        assert str(tmp_path) not in answer.text


def test_the_service_does_not_listen_elsewhere_without_tokens(tmp_path: Path) -> None:
    tree = {
        "catalogue": {"pools": {"a": {"path": "x"}}, "checkpoints": {"m": {"model": {"base": "b"}}}},
        "folder": str(tmp_path),
        "host": "0.0.0.0",
    }
    with pytest.raises(ConfigError, match="names is empty"):
        build_service_config(dict(tree))
    config = build_service_config(tree | {"names": ["selection.example.org"]})
    with pytest.raises(ConfigError, match="there is no token"):
        create_app(config, None, TokenFile(tmp_path / "tokens.json"))  # type: ignore[arg-type]


def test_a_lower_scope_does_no_more_than_look(service: LiveService, body: dict[str, object], finished: str) -> None:
    rows = [{"prompt": "one", "completion": "two"}]
    with service.http("eve") as http:
        tried = [
            start(http, body),
            http.post("/v1/plans", json=body),
            http.post("/v1/scores", json={"checkpoint": "tiny", "target": "sums", "rows": rows}),
            http.post("/v1/targets", json={"name": "x", "rows": rows}),
            http.delete("/v1/targets/x"),
            http.get("/v1/selections", params={"owner": "ann"}),
        ]
    assert {answer.status_code for answer in tried} == {403}


def test_a_foreign_run_is_as_if_it_were_not_there(service: LiveService, finished: str) -> None:
    with service.http("bob") as http:
        for part in ("", "/events", "/result", "/summary", "/report"):
            foreign, none = (http.get(f"/v1/selections/{id}{part}") for id in (finished, "0" * 28))
            assert (foreign.status_code, none.status_code) == (404, 404), part
            assert foreign.text.replace(finished, "") == none.text.replace("0" * 28, "")
        assert http.delete(f"/v1/selections/{finished}").status_code == 404


def test_a_method_is_what_the_request_line_says(service: LiveService, finished: str) -> None:
    override = {"X-HTTP-Method-Override": "DELETE", "X-Method-Override": "DELETE", "X-HTTP-Method": "DELETE"}
    with service.http() as http:
        assert http.get(f"/v1/selections/{finished}?_method=DELETE", headers=override).json()["status"] == "finished"
        for method in ("TRACE", "PATCH", "PUT", "PROPFIND"):
            answer = http.request(method, "/v1/selections")
            assert (answer.status_code, answer.headers["Content-Type"]) == (405, PROBLEM), method


# What browsers are tricked into


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "169.254.169.254", "localhost.evil", "[::2]"]
)
def test_a_rebound_host_is_turned_away(service: LiveService, host: str) -> None:
    assert status(raw(service, "GET /v1/pools HTTP/1.1", host=host)) == 421


@pytest.mark.parametrize("host", ["local host", "a@b", "127.0.0.1:x", "127.0.0.1/evil", ""])
def test_a_host_that_is_none_is_turned_away(service: LiveService, host: str) -> None:
    assert status(raw(service, "GET /v1/pools HTTP/1.1", host=host)) == 400
    assert status(raw(service, "GET /v1/pools HTTP/1.1", "Host: localhost")) == 400


def test_no_other_site_is_let_in(service: LiveService) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    with service.http(None) as stranger, service.http() as http:
        for answer in (stranger.options("/v1/selections", headers=asked), http.get("/v1/pools", headers=asked)):
            assert not any(name.lower().startswith("access-control") for name in answer.headers)


def test_every_answer_carries_the_security_headers(service: LiveService, finished: str) -> None:
    with service.http() as http, service.http(None) as stranger:
        answers = [
            stranger.get("/healthz"), stranger.get("/v1/pools"), http.get("/v1/pools"), http.get("/v1/nothing"),
            http.post("/v1/selections", content=b"{", headers=JSON), http.get(f"/v1/selections/{finished}/result"),
        ]  # fmt: skip
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_web_socket_is_refused(service: LiveService) -> None:
    upgrade = ("Upgrade: websocket", "Sec-WebSocket-Key: eDogeHh4eHh4eHh4eHh4eA==", "Sec-WebSocket-Version: 13")
    assert status(raw(service, "GET /v1/selections/x/events HTTP/1.1", *upgrade)) in (400, 403, 404, 422)


# Paths and names


@pytest.mark.parametrize(
    "place",
    ["selections/../../etc/passwd", "selections/..%2f..%2ftokens.json", "selections/%2e%2e/x", "selections/%00",
     "selections/" + "a" * 27 + "%0a", "targets/..%2f..%2ftokens", "targets/%2e%2e", "targets/a%00b", "targets/a%2Fb",
     "selections/" + "9" * 5000],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_path_is_walked(service: LiveService, method: str, place: str) -> None:
    answer = raw(service, f"{method} /v1/{place} HTTP/1.1")
    assert status(answer) in (404, 405, 422)
    assert b"root:" not in answer
    assert b"sha256" not in answer


@pytest.mark.parametrize(
    "name",
    [
        "../tokens",
        "/etc/passwd",
        "a/b",
        "..",
        ".hidden",
        "a\\b",
        "a\0b",
        "Qwen/Qwen2.5-0.5B",
        "a" * 65,
        "",
        "\uff41",
        "a\n",
    ],
)
def test_names_are_never_paths_or_hub_ids(service: LiveService, body: dict[str, object], name: str) -> None:
    rows = [{"prompt": "one", "completion": "two"}]
    with service.http() as http:
        for field in ("pool", "checkpoint", "target"):
            assert start(http, body | {field: name}).status_code == 422
        assert http.post("/v1/targets", json={"name": name, "rows": rows}).status_code == 422


@pytest.mark.parametrize(
    "more",
    [{"model": {"base": "x"}}, {"workers": {"count": 64}}, {"gradients": {"modules": ["(a+)+$"]}},
     {"features": {"kind": "proxy", "base": "x"}}, {"features": {"kind": "gradient", "path": "/etc"}},
     {"trust_remote_code": True}, {"folder": "/tmp"}, {"pool": {"path": "/etc/passwd"}}],
)  # fmt: skip
def test_what_a_request_may_not_set_is_refused(service: LiveService, body: dict[str, object], more: dict) -> None:
    with service.http() as http:
        assert start(http, body | more).status_code == 422


# Bodies


def test_a_body_that_says_it_is_too_large_is_not_read(service: LiveService) -> None:
    answer = raw(
        service, "POST /v1/selections HTTP/1.1", "Content-Type: application/json", "Content-Length: 99999999999"
    )
    assert status(answer) == 413


def test_a_chunked_body_is_counted_as_it_comes(service: LiveService) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    lines = ("POST /v1/selections HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked")
    assert status(raw(service, *lines, body=chunk * 4)) == 413  # and no last chunk ever comes


def test_a_stranger_s_body_is_not_read(service: LiveService) -> None:
    lines = ("POST /v1/selections HTTP/1.1", "Content-Type: application/json", "Content-Length: 1000000")
    assert status(raw(service, *lines, who=None)) == 401


def test_a_slow_body_is_cut_off(service: LiveService) -> None:
    lines = ("POST /v1/selections HTTP/1.1", "Content-Type: application/json", "Content-Length: 100")
    assert status(raw(service, *lines, body=b'{"pool"')) == 408


def test_a_body_of_two_lengths_is_no_second_request(service: LiveService) -> None:
    smuggled = b"0\r\n\r\nDELETE /v1/targets/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
    lines = (
        "POST /v1/plans HTTP/1.1",
        "Content-Type: application/json",
        "Content-Length: 4",
        "Transfer-Encoding: chunked",
    )
    answer = raw(service, *lines, body=smuggled)
    assert 400 <= status(answer) < 500
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[" * 50_000, "nested 50000 deep"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested 40 deep"),
        (b'{"pool": "\xff"}', "not UTF-8"),
        ('{"pool": "é"}'.encode("utf-16"), "not UTF-8"),
        (b'{"seed": NaN}', "NaN"),
        (b'{"search": {"budget": -Infinity}}', "-Infinity"),
        (b'{"search": {"budget": 1e999}}', "too large for a number"),
        (b'{"seed": 9' + b"9" * 100 + b"}", "beyond 2**53"),
        (b'{"seed": ' + b"9" * 20_000 + b"}", "beyond 2**53"),
        (b'{"label": "\\ud800"}', "half a surrogate"),
        (b'{"pool": "a"', "not JSON"),
        (b"{'pool': 1}", "not JSON"),
        (b'{"pool": "a"} {}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
    ],
)
def test_what_is_no_plain_json_is_refused(service: LiveService, content: bytes, says: str) -> None:
    with service.http() as http:
        answer = http.post("/v1/selections", content=content, headers=JSON)
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, PROBLEM)
    assert says in answer.json()["detail"]


def test_brackets_in_text_do_not_count_as_depth() -> None:
    assert read_json(json.dumps({"a": "[[[[" * 100 + '"' + "\\"}).encode(), 2)
    for text in (b'"' + b"[" * 100, b'["\\"' + b"[" * 100):
        with pytest.raises(Refused, match="not JSON"):
            read_json(text, 4)


def test_the_depth_of_a_large_body_is_found_in_linear_time() -> None:
    """A pattern that backtracks would take hours for these."""
    for body in (b'"\\' * 500_000, b'"' * 1_000_001, b"\\" * 1_000_000, b"[]" * 500_000):
        with pytest.raises(Refused):
            read_json(body, 32)


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml",
     "application/json; charset=utf-16", "application/json-patch+json", "application/json, text/plain"],
)  # fmt: skip
def test_a_body_of_another_kind_is_not_taken_for_json(service: LiveService, body: dict[str, object], kind: str) -> None:
    with service.http() as http:
        answer = http.post("/v1/selections", content=json.dumps(body), headers={"Content-Type": kind})
    assert answer.status_code == 415


def test_a_compressed_body_is_not_unpacked(service: LiveService) -> None:
    with service.http() as http:
        answer = http.post("/v1/selections", content=b"\x1f\x8b", headers=JSON | {"Content-Encoding": "gzip"})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    "change",
    [{"label": "a\0b"}, {"label": "a\nb"}, {"label": "\x1b[31m"}, {"label": "a" * 201}, {"seed": -1},
     {"seed": "1"}, {"seed": 1.5}, {"seed": True}, {"search": {"budget": "0.2"}},
     {"search": {"rounds": {"lag": True}}}, {"search": []}, {"search": None},
     {"clusters": {"iterations": 2**52}}, {"features": {"kind": "output_gradient", "dim": 2**40}},
     {"audit": {"samples": -1}}, {"target": {"rows": []}}, {"target": {"rows": [None]}}, {"target": []}],
)  # fmt: skip
def test_values_out_of_range_are_refused(service: LiveService, body: dict[str, object], change: dict) -> None:
    with service.http() as http:
        answer = start(http, body | change)
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"] == PROBLEM


def test_more_rows_than_the_service_takes_are_refused(service: LiveService, body: dict[str, object]) -> None:
    rows = [{"prompt": f"{i}", "completion": "x"} for i in range(101)]
    with service.http() as http:
        assert "limits.target_rows" in start(http, body | {"target": {"rows": rows}}).json()["detail"]


# Headers and abuse of what is offered


@pytest.mark.parametrize("key", ["", "a b", "é", "a\tb", "k" * 129])
def test_an_idempotency_key_is_short_and_plain(service: LiveService, body: dict[str, object], key: str) -> None:
    content = json.dumps(body).encode()
    lines = ("Content-Type: application/json", f"Content-Length: {len(content)}", f"Idempotency-Key: {key}")
    assert status(raw(service, "POST /v1/selections HTTP/1.1", *lines, body=content)) == 422


def test_ranges_of_bytes_are_not_multiplied(service: LiveService, finished: str, folder: Path) -> None:
    many = "bytes=" + ",".join("0-" for _ in range(1000))
    with service.http() as http:
        for wanted in (many, "bytes=5-1", "bytes=-999999999999999999999", "bytes=0-0"):
            answer = http.get(f"/v1/selections/{finished}/result", headers={"Range": wanted})
            assert (answer.status_code, answer.content) == (200, (folder / "selection.jsonl").read_bytes())


@pytest.mark.parametrize("id", ["-1", "x", "1e3", "9" * 400, "../x"])
def test_an_event_id_is_a_place_in_the_file(service: LiveService, finished: str, id: str) -> None:
    with service.http() as http:
        answer = http.get(f"/v1/selections/{finished}/events", headers={"Last-Event-ID": id})
    assert answer.status_code == 422


def test_an_event_id_beyond_the_end_or_amid_a_line_breaks_nothing(service: LiveService, finished: str) -> None:
    with service.http() as http:
        for id in ("5", str(2**40)):
            answer = http.get(f"/v1/selections/{finished}/events", headers={"Last-Event-ID": id})
            assert answer.status_code == 200
            assert answer.text.rstrip().endswith("}")


def test_floods_of_watchers_are_refused_and_make_room_again(tmp_path: Path, body: dict[str, object]) -> None:
    config = service_config(tmp_path, limits={"watchers_per_token": 3})
    with live_service(config, hold=True) as live, live.http() as http, live.http("root") as admin:
        run = start(http, body).json()["id"]
        place = f"/v1/selections/{run}/events"
        with ExitStack() as streams:
            opened = [streams.enter_context(http.stream("GET", place)) for _ in range(3)]
            assert {stream.status_code for stream in opened} == {200}
            assert http.get(place).status_code == 429
            assert streams.enter_context(admin.stream("GET", place)).status_code == 200
        deadline = time.monotonic() + 20
        while True:  # closed connections are noticed by and by
            with http.stream("GET", place) as again:
                if again.status_code == 200:
                    break
            assert time.monotonic() < deadline


def test_a_token_that_asks_too_often_has_to_wait(tmp_path: Path) -> None:
    with live_service(service_config(tmp_path, limits={"requests_per_minute": 60})) as live, live.http() as http:
        answers = [http.get("/v1/pools") for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert int(answers[-1].headers["Retry-After"]) >= 1
        with live.http("bob") as other:
            assert other.get("/v1/pools").status_code == 200


def test_long_and_many_headers_end_one_request_only(service: LiveService) -> None:
    for lines in ((f"X-Long: {'a' * 200_000}",), tuple(f"X-{i}: {i}" for i in range(5000))):
        with suppress(ConnectionError):  # the server may hang up, which is an answer too
            assert status(raw(service, "GET /v1/pools HTTP/1.1", *lines)) in (200, 400, 431)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "before=x", "status=done", "pool=../x", "owner=%00"]
)
def test_queries_are_checked(service: LiveService, query: str) -> None:
    with service.http() as http:
        assert http.get(f"/v1/selections?{query}").status_code == 422


# What is told and logged


def test_secrets_and_line_breaks_reach_no_log(service: LiveService, caplog: pytest.LogCaptureFixture) -> None:
    guess = "cucb_" + "z" * 43
    with caplog.at_level(logging.DEBUG), service.http() as http, service.http(None) as stranger:
        stranger.get("/v1/pools", headers={"Authorization": f"Bearer {guess}"})
        http.get("/v1/x%0d%0aERROR%20forged", headers={"X-Forged": "a"})
        http.post("/v1/selections", json={"pool": "a\r\nERROR forged"})
    for record in caplog.records:
        said = record.getMessage()
        if record.name.startswith(("serve", "ray_app", "clusterucb", "uvicorn")):
            assert guess not in said
            assert not any(secret in said for secret in service.secrets.values())
            assert "\nERROR forged" not in said


def test_an_unforeseen_error_tells_nothing_of_the_inside(
    service: LiveService, finished: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(run_id: str) -> None:
        raise RuntimeError("the password is swordfish")

    with service.http() as http:
        monkeypatch.setattr(service.backend, "get", broken)
        answer = http.get(f"/v1/selections/{finished}")
        monkeypatch.undo()
    assert (answer.status_code, answer.headers["Content-Type"]) == (500, PROBLEM)
    assert "swordfish" not in answer.text
    assert answer.json()["id"] in caplog.text
