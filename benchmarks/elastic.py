"""Throughput of a run while nodes come and go, on a real local cluster.

    python benchmarks/elastic.py [--rows 900] [--batches 60]

A run with `workers.count: auto` begins on one node; a second node joins in the middle, and is killed later. A
micro-batch takes a fixed time beside its own, so that two nodes of this one machine behave like two machines. Printed:
rows a second on one node, on two, and on one again, and whether the bytes are those of a run in one process.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from chaos import Run, chaos_in
from selection_cases import result_of

CHANGES: dict[str, object] = {
    "search": {"allocator": {"kind": "exhaustive"}},
    "workers": {"count": "auto"},
    "gradients": {"batch_tokens": 64, "sketch": {"kind": "hash", "dim": 512}},
}


def events(run: Run, kind: str) -> list[dict[str, float]]:
    """Return the events of one kind."""
    lines = run.folder.events_file.read_text().splitlines()
    whole = (json.loads(line) for line in lines if line.endswith("}"))
    return [event for event in whole if event["event"] == kind]


def rate(run: Run, batches: int) -> float:
    """Return rows a second over the next micro-batches."""
    start = len(events(run, "progressed"))
    assert run.wait(lambda: len(events(run, "progressed")) >= start + batches), "the run was over too soon"
    seen = events(run, "progressed")[start : start + batches]
    return sum(event["samples"] for event in seen[1:]) / (seen[-1]["time"] - seen[0]["time"])


def main() -> None:
    """Print the three rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=900, help="of the pool: the run must outlast the node's death")
    parser.add_argument("--batches", type=int, default=60, help="micro-batches that a rate is taken over")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="elastic-") as place,
        chaos_in(Path(place) / "cluster", rows=options.rows, changes=CHANGES, second=False) as chaos,
    ):
        run = Run(chaos, Path(place) / "elastic" / "run")
        run.path.parent.mkdir()
        run.wait(lambda: run.progress() > 2)
        one = rate(run, options.batches)
        began = time.monotonic()
        chaos.add_a_node()
        run.wait(lambda: len(events(run, "worker_ready")) == 2)
        joined = time.monotonic() - began
        two = rate(run, options.batches)
        chaos.kill_a_node()
        run.wait(lambda: bool(events(run, "worker_lost")))
        again = rate(run, options.batches)
        run.wait(lambda: False)
        same = result_of(run.folder) == chaos.scouted
    print(f"one node {one:.1f} rows/s; two nodes {two:.1f} ({two / one:.2f}x, ideal 2x); one again {again:.1f}")
    print(f"from the node's start to its worker's first work {joined:.0f} s, the node itself included")
    print(f"bytes {'equal' if same else 'DIFFER'}")


if __name__ == "__main__":
    main()
