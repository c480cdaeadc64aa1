"""A run of a service, as its client sees it."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from clusterucb.run.disk import replacing
from clusterucb.run.events import Event
from ray_app.client.connection import Connection
from ray_app.client.errors import RunCancelled, RunFailed
from ray_app.client.events import follow
from ray_app.service.records import RunRecord

Progress = Callable[[Event], None]


class Run:
    """One run. `record` is what was last heard of it; `refresh` asks again."""

    def __init__(self, connection: Connection, record: RunRecord) -> None:
        self._connection = connection
        self.record = record

    def __repr__(self) -> str:
        """Name the run and its state."""
        return f"Run({self.id}, {self.record.status})"

    @property
    def id(self) -> str:
        """The service's name for it."""
        return self.record.id

    @property
    def _path(self) -> str:
        return f"/v1/selections/{self.id}"

    def refresh(self) -> "Run":
        """Ask how far it is."""
        self.record = RunRecord.model_validate_json(self._connection.ask("GET", self._path).content)
        return self

    def events(self, after: int = 0) -> Iterator[Event | RunRecord]:
        """Yield its events, and its record whenever its state changes, until it is over."""
        for news in follow(self._connection, self.id, after):
            if isinstance(news, RunRecord):
                self.record = news
            yield news

    def wait(self, progress: Progress | None = None) -> "Run":
        """Wait until it is finished; `progress` gets every event. Raises RunFailed or RunCancelled."""
        for news in self.events():
            if progress is not None and not isinstance(news, RunRecord):
                progress(news)
        if self.record.status == "failed":
            raise RunFailed(f"run {self.id} failed: {self.record.error}")
        if self.record.status == "cancelled":
            raise RunCancelled(f"run {self.id} was cancelled")
        return self

    def cancel(self) -> "Run":
        """Ask it to stop."""
        self.record = RunRecord.model_validate_json(self._connection.ask("DELETE", self._path).content)
        return self

    def summary(self) -> dict[str, Any]:
        """Return its summary: composition, cost, audited recall."""
        return self._connection.ask("GET", f"{self._path}/summary").json()

    def rows(
        self, first: int | None = None, last: int | None = None, target: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the selected rows of some ranks, best first, as they stand in the pool.

        Of several targets those are of the joint selection, or with `target` of one's own.
        """
        yield from self._lines("rows", first, last, target)

    def ids(
        self, first: int | None = None, last: int | None = None, target: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield id, rank and influence of the selected rows of some ranks."""
        yield from self._lines("ids", first, last, target)

    def scores(self, first: int | None = None, last: int | None = None, target: str | None = None) -> pa.Table:
        """Return everything scored as a table; with ranks, the selected ones among them."""
        params = {"format": "parquet", "first": first, "last": last, "target": target}
        return pq.read_table(io.BytesIO(self._connection.ask("GET", f"{self._path}/result", params=params).content))

    def report(self) -> str:
        """Return its report, a page that stands alone."""
        return self._connection.ask("GET", f"{self._path}/report").text

    def download(self, path: Path, format: Literal["jsonl", "parquet"] = "jsonl", target: str | None = None) -> Path:
        """Write its `selection.jsonl`, of several targets one's own, or `scores.parquet`, byte for byte, to a file."""
        with (
            self._connection.stream(f"{self._path}/result", params={"format": format, "target": target}) as answer,
            replacing(path) as beside,
            beside.open("wb") as file,
        ):
            for chunk in answer.iter_bytes():
                file.write(chunk)
        return path

    def _lines(self, fields: str, first: int | None, last: int | None, target: str | None) -> Iterator[dict[str, Any]]:
        params = {"format": "jsonl", "fields": fields, "first": first, "last": last, "target": target}
        with self._connection.stream(f"{self._path}/result", params=params) as answer:
            for line in answer.iter_lines():
                yield json.loads(line)
