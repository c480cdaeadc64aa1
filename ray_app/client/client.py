"""The client: start runs, find them again, and ask what needs no run."""

import os
import uuid
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Required, Self, TypedDict, Unpack

from clusterucb.errors import ConfigError
from ray_app.client.connection import Connection
from ray_app.client.run import Run
from ray_app.service.records import Plan, RunPage, RunRecord, RunStatus, Scores, StoredTarget

SERVER, TOKEN = "CLUSTERUCB_SERVER", "CLUSTERUCB_TOKEN"
Row = dict[str, Any]


class Wanted(TypedDict, total=False):
    """A selection: names of the catalogue, a target, sections of the run configuration, and short forms of some."""

    pool: Required[str]
    checkpoint: Required[str]
    target: str | Sequence[Row] | dict[str, Any] | None
    """A name, or rows; `targets` where there are several."""
    targets: Sequence[str | dict[str, Any]]
    """Several that share one budget: names, or dicts of `name` and, as wanted, `rows`, `subtask_field` and `weight`."""
    subtask_field: str | None
    """Field of the rows that groups them in subtasks."""
    budget: float | None
    """`search.budget`."""
    allocator: str | dict[str, Any] | None
    """`search.allocator`, or its kind."""
    share: float | None
    """`selection.share`."""
    count: int | None
    """`selection.count`."""
    tokens: dict[str, Any]
    gates: dict[str, Any]
    features: dict[str, Any]
    clusters: dict[str, Any]
    search: dict[str, Any]
    selection: dict[str, Any]
    audit: dict[str, Any]
    seed: int
    label: str


class Client:
    """A selection service. Refusals are `ServiceError`s; `patience_s` is how long it is asked again while it is busy or
    away."""

    def __init__(self, url: str | None = None, token: str | None = None, patience_s: float = 60.0) -> None:
        url, token = url or os.environ.get(SERVER), token or os.environ.get(TOKEN)
        if not url or not url.startswith(("http://", "https://")):
            raise ConfigError(f"the service's URL is {url!r}: give one such as http://127.0.0.1:8080, or set {SERVER}")
        if not token:
            raise ConfigError(f"no token for {url}: give one, or set {TOKEN}; `clusterucb token make` makes it")
        self._connection = Connection(url, token, patience_s)

    def __enter__(self) -> Self:
        """Use the client in a block that closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self._connection.close()

    def select(self, *, key: str | None = None, **wanted: Unpack[Wanted]) -> Run:
        """Start a selection. Sent again with the same `key`, it is the same run."""
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        answer = self._connection.ask("POST", "/v1/selections", json=selection_body(**wanted), headers=headers)
        return Run(self._connection, RunRecord.model_validate_json(answer.content))

    def plan(self, **wanted: Unpack[Wanted]) -> Plan:
        """Say what a selection would cost, without starting it."""
        answer = self._connection.ask("POST", "/v1/plans", json=selection_body(**wanted))
        return Plan.model_validate_json(answer.content)

    def score(self, rows: Sequence[Row], *, checkpoint: str, target: str | Sequence[Row], **sections: Any) -> Scores:
        """Say how much training on given samples would help, best first."""
        body = {"checkpoint": checkpoint, "target": _target(target, None), "rows": list(rows), **sections}
        return Scores.model_validate_json(self._connection.ask("POST", "/v1/scores", json=body).content)

    def run(self, run_id: str) -> Run:
        """Return a run by its id."""
        answer = self._connection.ask("GET", f"/v1/selections/{run_id}")
        return Run(self._connection, RunRecord.model_validate_json(answer.content))

    def runs(
        self, *, status: RunStatus | None = None, pool: str | None = None, owner: str | None = None
    ) -> Iterator[Run]:
        """Yield runs, the newest first."""
        before: str | None = None
        while True:
            params = {"status": status, "pool": pool, "owner": owner, "before": before, "limit": 100}
            page = RunPage.model_validate_json(self._connection.ask("GET", "/v1/selections", params=params).content)
            yield from (Run(self._connection, record) for record in page.runs)
            if (before := page.next) is None:
                return

    def catalogue(self, kind: Literal["pools", "checkpoints", "targets"]) -> list[dict[str, Any]]:
        """Return what requests may name."""
        return self._connection.ask("GET", f"/v1/{kind}").json()[kind]

    def upload_target(
        self, name: str, rows: Sequence[Row], *, subtask_field: str | None = None, description: str = ""
    ) -> StoredTarget:
        """Keep a target under a name."""
        body = {"name": name, "description": description, **_target(rows, subtask_field)}
        return StoredTarget.model_validate_json(self._connection.ask("POST", "/v1/targets", json=body).content)

    def delete_target(self, name: str) -> None:
        """Forget an uploaded target."""
        self._connection.ask("DELETE", f"/v1/targets/{name}")


def selection_body(**wanted: Unpack[Wanted]) -> dict[str, Any]:
    """Return the body of a request for a selection."""
    body: dict[str, Any] = dict(wanted)
    subtask_field = body.pop("subtask_field", None)
    if (target := body.pop("target", None)) is not None:
        body["target"] = _target(target, subtask_field)
    if targets := body.pop("targets", ()):
        body["targets"] = [{"name": target} if isinstance(target, str) else target for target in targets]
    allocator = body.pop("allocator", None)
    short = {
        "search": {
            "budget": body.pop("budget", None),
            "allocator": {"kind": allocator} if isinstance(allocator, str) else allocator,
        },
        "selection": {"share": body.pop("share", None), "count": body.pop("count", None)},
    }
    for section, given in short.items():
        if named := {name: value for name, value in given.items() if value is not None}:
            body[section] = {**body.get(section, {}), **named}
    return body


def _target(target: str | Sequence[Row] | dict[str, Any], subtask_field: str | None) -> Any:
    if isinstance(target, str | dict):
        return target
    return {"rows": list(target)} | ({} if subtask_field is None else {"subtask_field": subtask_field})
