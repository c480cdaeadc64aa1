"""Two replicas, two names, two runs at once: no cross-talk, warm workers shared, a line that is fair.

    python tests/service_fairness.py                 # a few minutes on two cores

First both names have a run going at the same time. Then one run at a time is allowed, and one name queues many runs
before the other queues its own. Prints what each had; ends with an error where a promise is broken.
"""

import argparse
import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import psutil
from selection_cases import result_of, run_here
from service_chaos import Watcher
from service_processes import ServiceProcess, running_service, when, write_service

from ray_app.client import Client
from ray_app.client.errors import Forbidden, Missing
from ray_app.client.run import Run
from ray_app.service.ledger import Ledger
from ray_app.service.tokens import TokenFile, tokens_path

PATIENCE_S = 600.0
MANY, FEW = 4, 2


def ask(client: Client, target: str, seed: int) -> Run:
    search = {"budget": 0.5, "rounds": {"first": 4}}
    return client.select(pool="mixed", checkpoint="tiny", target=target, search=search, seed=seed)


def replica_seconds(service: ServiceProcess) -> dict[int, float]:
    """Return the processor time of each replica."""
    return {pid: sum(psutil.Process(pid).cpu_times()[:2]) for pid in service.pids("replica")}


def may_read(client: Client, run_id: str) -> bool:
    try:
        client.run(run_id)
    except (Missing, Forbidden):
        return False
    return True


def at_once(service: ServiceProcess, clients: dict[str, Client], ledger: Ledger, expected: Path) -> None:
    """Both names' runs go at the same time; each sees its own alone, and each ends with the bytes of a run alone."""
    before = replica_seconds(service)
    assert len(before) == 2, f"{len(before)} replicas"
    runs = {name: ask(client, {"ann": "sums", "bob": "birds"}[name], 1) for name, client in clients.items()}
    watchers = {name: Watcher(run) for name, run in runs.items()}
    for watcher in watchers.values():
        watcher.start()
    for name, other in (("ann", "bob"), ("bob", "ann")):
        shown = [run.id for run in clients[name].runs()]
        assert shown == [runs[name].id], f"{name} is shown {shown}"
        if may_read(clients[name], runs[other].id):
            raise AssertionError(f"{name} may read {other}'s run")
    workers = 0

    def over() -> bool:
        nonlocal workers
        workers = max(workers, len(service.pids("worker")))
        return not any(watcher.is_alive() for watcher in watchers.values())

    when(over, PATIENCE_S)
    spans = {}
    for name, run in runs.items():
        watcher, folder = watchers[name], ledger.folder(run.id)
        assert watcher.error is None, watcher.error
        assert watcher.record is not None, f"{name} has seen no end"
        assert watcher.record.status == "finished", watcher.record
        lines = [json.loads(line) for line in folder.events_file.read_text().splitlines()]
        assert len(watcher.events) == len(lines), "an event of another run, or one twice"
        spans[name] = [line["time"] for line in lines if line["event"] == "progressed"]
        assert result_of(folder) == result_of(run_here(ledger.asked(run.id).config, expected / run.id)), "other bytes"
    first, last = max(span[0] for span in spans.values()), min(span[-1] for span in spans.values())
    together = {name: sum(first <= at <= last for at in span) for name, span in spans.items()}
    used = {pid: seconds - before[pid] for pid, seconds in replica_seconds(service).items() if pid in before}
    told = {
        "at once": together,
        "seconds together": round(last - first, 1),
        "workers at most": workers,
        "replicas' CPU seconds": [round(each, 2) for each in used.values()],
        "bytes": "right",
    }
    print(json.dumps(told), flush=True)
    assert workers <= 2, "the workers are not shared"
    assert last > first, "the runs were not going at the same time"


def in_line(service: ServiceProcess, clients: dict[str, Client], ledger: Ledger) -> None:
    """One at a time: ann queues many, then bob a few; bob's go in between."""
    runs = [("ann", ask(clients["ann"], "sums", 10 + number)) for number in range(MANY)]
    runs += [("bob", ask(clients["bob"], "birds", 20 + number)) for number in range(FEW)]
    for _, run in runs:
        run.wait()
    began = {run.id: found.at for _, run in runs if (found := ledger.began(run.id)) is not None}
    served = sorted(runs, key=lambda each: began[each[1].id])
    order = [name for name, _ in served]
    for name in clients:
        mine = [run.id for whose, run in served if whose == name]
        assert mine == [run.id for whose, run in runs if whose == name], f"{name}'s own order was not kept"
    print(json.dumps({"asked for": [name for name, _ in runs], "served": order}), flush=True)
    # ann's first runs before bob has asked; from then on the two take turns while both wait
    ends = {run.id: ledger.ended(run.id) for _, run in runs}
    for (_, earlier), (_, later) in pairwise(served):
        end = ends[earlier.id]
        assert end is not None, f"{earlier.id} has no end"
        assert began[later.id] >= end.at, "two at a time"
    waited = order[: 2 * FEW + 1]
    assert waited.count("bob") == FEW, f"bob was kept waiting: {order}"


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as there:
        phases = (("at once", arguments.rows, {"active_runs": 2}), ("in line", 160, {"active_runs": 1}))
        for what, rows, limits in phases:
            folder = Path(there) / what.replace(" ", "-")
            folder.mkdir()
            limits |= {"requests_per_minute": 10**6, "queued_runs": 32}
            workers = {"num_cpus": 1, "count": 2}  # all that two processors carry
            file = write_service(folder, rows, limits=limits, workers=workers)
            with running_service(file, "--replicas", "2") as service:
                tokens, ledger = TokenFile(tokens_path(service.config)), Ledger(folder / "service")
                clients = {
                    name: Client(service.url, tokens.make(name, "submit")[1], PATIENCE_S) for name in ("ann", "bob")
                }
                if what == "at once":
                    at_once(service, clients, ledger, folder)
                else:
                    in_line(service, clients, ledger)


if __name__ == "__main__":
    sys.exit(main())
