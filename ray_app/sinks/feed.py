"""A run's events go to its trackers, from the folder where they are kept, on a thread of the driver.

Invariants: a run waits for no tracker and dies of none, one that fails being reported once and left alone; a scalar is
delivered once, however often the run is taken up, unless a driver dies between a delivery and its note.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clusterucb.config import RunConfig, Sinks
from clusterucb.run.disk import write_atomically
from clusterucb.run.events import parse_event
from clusterucb.run.run_folder import RunFolder
from ray_app.sinks.scalars import Scalar, Scalars
from ray_app.sinks.sink import Sink, check_sinks, sink_makers

_END_S = 30.0
"""How long the end of a run waits for trackers."""

Tell = Callable[[str], None]


@contextmanager
def told_to_sinks(config: RunConfig, folder: RunFolder, tell: Tell) -> Iterator[None]:
    """Deliver what happens in `folder` meanwhile; `tell` hears of a tracker that fails."""
    check_sinks(config.sinks)
    if config.sinks.tensorboard is None and config.sinks.mlflow is None and config.sinks.wandb is None:
        yield
        return
    feed = Feed(config.sinks, folder, tell)
    feed.start()
    ended = False
    try:
        yield
        ended = True
    finally:
        feed.stop(ended)


class Feed(threading.Thread):
    """Reads new events now and then and hands them on."""

    def __init__(self, sinks: Sinks, folder: RunFolder, tell: Tell) -> None:
        super().__init__(daemon=True, name="sinks")
        self._settings = sinks
        self._folder = folder
        self._tell = tell
        self._over = threading.Event()
        self._ended = False
        self._note = folder.state / "sinks.json"
        self._scalars = Scalars()
        self._read = 0
        self._sinks: dict[str, Sink] | None = None
        self._broken = False
        """The events cannot be read: no tracker gets more of them."""

    def stop(self, ended: bool) -> None:
        """Deliver the rest and close; gives up after a while."""
        self._ended = ended
        self._over.set()
        self.join(_END_S)
        if self.is_alive():
            self._tell(f"trackers did not finish within {_END_S:.0f} s: they may lack the end of the run")

    def run(self) -> None:
        """Work until it is over."""
        while True:
            over = self._over.wait(max(self._settings.every_s, self._folder.poll_s))
            if self._folder.exists and not self._broken:
                self._broken = not self._guarded("events", self._deliver)
            if over:
                for name, sink in list((self._sinks or {}).items()):
                    self._guarded(name, lambda sink=sink: sink.close(self._ended))
                return

    def _deliver(self) -> None:
        if self._sinks is None:
            opened = self._sinks = {}
            for name, make in sink_makers(self._settings, self._folder).items():
                self._guarded(name, lambda name=name, make=make: opened.update({name: make()}))
        new = self._news()
        if not new:
            return
        for name, sink in list(self._sinks.items()):
            if not self._guarded(name, lambda sink=sink: sink.write(new)):
                del self._sinks[name]
        write_atomically(self._note, json.dumps({"bytes": self._read}) + "\n")

    def _news(self) -> list[Scalar]:
        """Return scalars of events that no driver has delivered."""
        first = self._read == 0
        delivered = self._delivered() if first else self._read
        whole, newline, _ = self._folder.read_events(self._read).rpartition(b"\n")
        found: list[Scalar] = []
        for line in (whole + newline).splitlines(keepends=True):
            scalars = self._scalars(parse_event(line.decode()))
            if self._read >= delivered:
                found += scalars
            self._read += len(line)
        return found

    def _delivered(self) -> int:
        try:
            return int(json.loads(self._note.read_text(encoding="utf-8"))["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def _guarded(self, name: str, work: Callable[[], None]) -> bool:
        """Do something that must not end the run: trackers raise whatever their networks and libraries do."""
        try:
            work()
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            self._tell(f"tracker {name} failed and gets nothing more: {type(error).__name__}: {words}")
            return False
        return True
