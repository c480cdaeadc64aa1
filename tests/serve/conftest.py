"""A live service for each file of tests of the HTTP room, and one finished run in it.

For each file and not for all: no run of it works on, and patches torch as it loads its model, beside other tests.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from live_service import LiveService, live_service, service_config

BODY: dict[str, object] = {
    "pool": "mixed",
    "checkpoint": "tiny",
    "target": "sums",
    "search": {"budget": 0.4, "rounds": {"first": 4}},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    limits = {
        "body_bytes": 200_000,
        "body_s": 1.0,
        "score_rows": 4,
        "target_rows": 100,
        "queued_runs": 500,
        "failed_authentications_per_minute": 10**6,
    }
    config = service_config(tmp_path_factory.mktemp("service"), limits=limits)
    with live_service(config) as live:
        yield live


@pytest.fixture(scope="session")
def body() -> dict[str, object]:
    return dict(BODY)


@pytest.fixture(scope="module")
def finished(service: LiveService, body: dict[str, object]) -> str:
    """Id of a run of ann that is finished."""
    with service.http() as http:
        run = http.post("/v1/selections", json=body).json()["id"]
        with http.stream("GET", f"/v1/selections/{run}/events") as stream:
            for _ in stream.iter_lines():
                pass
        assert http.get(f"/v1/selections/{run}").json()["status"] == "finished"
    return run


@pytest.fixture
def folder(service: LiveService, finished: str) -> Path:
    return Path(service.config.folder) / "runs" / finished
