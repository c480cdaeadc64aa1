"""Kill -9 of every part of a service in the middle of runs: each run ends once, with the right bytes, clients go on.

    python tests/service_chaos.py                # all of it, about ten minutes on two cores

Replica, proxy, controller, service actor, keeper, coordinator and gradient worker, then the whole of Serve at once,
then everything with Ray itself. Watchers follow through all of it; every event comes once and in order.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

from selection_cases import result_of, run_here
from service_processes import ServiceProcess, when, write_service

from clusterucb.run.run_folder import RunFolder
from ray_app.client.run import Run
from ray_app.service.ledger import Ledger
from ray_app.service.records import RunRecord

FAULTS = ("replica", "proxy", "service", "controller", "keeper", "coordinator", "worker")
_PATIENCE_S = 600.0
SERVE = ("controller", "proxy", "replica")


class Watcher(threading.Thread):
    """Follows a run to its end by its stream, as a client does."""

    def __init__(self, run: Run) -> None:
        super().__init__(daemon=True)
        self.run_ = run
        self.events: list[str] = []
        self.record: RunRecord | None = None
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            for told in self.run_.events():
                if isinstance(told, RunRecord):
                    self.record = told
                else:
                    self.events.append(told.model_dump_json(exclude_none=True))
        except Exception as error:  # told where the watcher is joined
            self.error = error


def progress(folder: RunFolder) -> int:
    """Count the micro-batches of the search so far."""
    return folder.events_file.read_text().count('"stage":"search"') if folder.events_file.exists() else 0


def body(seed: int) -> dict[str, object]:
    return {
        "pool": "mixed", "checkpoint": "tiny", "target": "sums", "seed": seed,
        "search": {"budget": 0.5, "rounds": {"first": 4}},
    }  # fmt: skip


def strike(service: ServiceProcess, ledger: Ledger, what: str, seed: int, expected: Path) -> float:
    """Start a run, kill `what` in the middle of it (several, joined by +, one after the other), and hold the end
    against the run in one process."""
    began = time.monotonic()
    with service.client(_PATIENCE_S) as client:
        run = client.select(key=f"key-{what}-{seed}", **body(seed))  # pyright: ignore[reportArgumentType]
        watcher = Watcher(run)
        watcher.start()
        folder = ledger.folder(run.id)
        for number, fault in enumerate(what.split("+"), start=1):
            when(lambda number=number: progress(folder) >= 5 * number, _PATIENCE_S)
            if fault == "everything":
                service.kill_all()
                service.start(timeout_s=_PATIENCE_S)
            else:
                for part in SERVE if fault == "serve" else (fault,):
                    assert service.kill(part), f"there is no {part} to kill"
        watcher.join(_PATIENCE_S)
        assert watcher.error is None, watcher.error
        assert watcher.record is not None, "the watcher has seen no end"
        assert watcher.record.status == "finished", watcher.record
        assert watcher.events == [line for line in map(_plain, folder.events_file.read_text().splitlines())], (
            "an event was lost, doubled or out of order"
        )
        again = client.select(key=f"key-{what}-{seed}", **body(seed))  # pyright: ignore[reportArgumentType]
        assert again.id == run.id, "the key brought another run"
    alone = run_here(ledger.asked(run.id).config, expected / f"{what}-{seed}")
    assert result_of(folder) == result_of(alone), "other bytes"
    return time.monotonic() - began


def _plain(line: str) -> str:
    from clusterucb.run.events import parse_event

    return parse_event(line).model_dump_json(exclude_none=True)


def main() -> None:
    """Strike with each fault; print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", nargs="*", default=[*FAULTS, "serve", "everything"])
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--replicas", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there)
        service = ServiceProcess(write_service(folder, arguments.rows))
        print(
            f"ready after {service.start('--replicas', str(arguments.replicas), timeout_s=_PATIENCE_S):.0f} s",
            flush=True,
        )
        ledger = Ledger(folder / "service")
        try:
            for seed, what in enumerate(arguments.faults):
                seconds = strike(service, ledger, what, seed, folder)
                print(json.dumps({"killed": what, "seconds": round(seconds, 1), "bytes": "right"}), flush=True)
            ids = ledger.ids()
            ended = [ledger.ended(run_id) for run_id in ids]
            assert len(ids) == len(arguments.faults), "a run was lost or doubled"
            assert all(each is not None and each.status == "finished" for each in ended)
            print(f"{len(ids)} runs, {len(arguments.faults)} faults, nothing lost, nothing twice")
        finally:
            if service.process is not None and service.process.poll() is None:
                service.stop()


if __name__ == "__main__":
    sys.exit(main())
