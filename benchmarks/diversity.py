"""Diverse re-ranking of a shortlist against plain greedy and the physical limit: CPU seconds, ratios, peak memory.

    OMP_NUM_THREADS=1 python benchmarks/diversity.py [--shortlist 2000 20000 100000] [--dim 512] [--plain 2000]

Rows are clustered (200 topics, as far from each other as their own rows), with falling values. Half of the shortlist is
selected. Plain greedy computes every gain at every step; it is timed up to `--plain` rows and must take the
same samples. The limit is what no greedy can go below: every gain once, one matrix product (facility location: the
shortlist by what stands for it; log-determinant: the shortlist by the dim x dim matrix).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clusterucb.config import FacilityLocation, LogDeterminant
from clusterucb.selection.diversity import diverse_order, objective_of, prepared, scaled
from clusterucb.selection.lazy_greedy import Objective


class Open:
    """Admits everything."""

    def admits(self, position: int) -> bool:
        """Say yes."""
        return True

    def take(self, position: int) -> None:
        """Take note of nothing."""


def rows_of(count: int, dim: int) -> np.ndarray:
    """Return clustered rows."""
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(200, dim)).astype(np.float32)
    return topics[rng.integers(0, 200, count)] + rng.normal(size=(count, dim)).astype(np.float32)


def plain_greedy(objective: Objective, count: int, wanted: int) -> list[int]:
    """Take the largest gain, every one computed anew at every step."""
    left, taken = np.arange(count), []
    for _ in range(wanted):
        gains = np.concatenate([objective.gains(left[start : start + 256]) for start in range(0, len(left), 256)])
        best = int(left[np.argmax(gains)])
        objective.add(best)
        taken.append(best)
        left = left[left != best]
    return taken


def seconds(what: Callable[[], object]) -> tuple[float, object]:
    """Return its CPU seconds, and what it returns."""
    began = time.process_time()
    found = what()
    return time.process_time() - began, found


def peak_gib() -> float:
    """Return the largest resident set since it was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def measure(kind: FacilityLocation | LogDeterminant, count: int, most_plain: int) -> None:
    """Print one line."""
    rows, wanted, values = rows_of(count, kind.dim), count // 2, np.linspace(1.0, 0.0, count) ** 2
    Path("/proc/self/clear_refs").write_text("5")
    lazy, found = seconds(lambda: diverse_order(kind, np.arange(count), values, rows, wanted, Open()))
    peak = peak_gib()
    unit, relevance = prepared(rows, kind.center), scaled(values)
    blocks = [slice(start, start + 256) for start in range(0, count, 256)]
    if isinstance(kind, FacilityLocation):
        stand = unit[np.linspace(0, count - 1, min(count, kind.represented)).astype(int)]
        limit, _ = seconds(lambda: [unit[block] @ stand.T for block in blocks])
    else:
        square = np.eye(kind.dim)
        limit, _ = seconds(lambda: [unit[block].astype(float) @ square for block in blocks])
    words = f"{'-':>8} {'-':>10}"
    if count <= most_plain:
        objective = objective_of(kind, unit, relevance, wanted)
        plain, taken = seconds(lambda: plain_greedy(objective, count, wanted))
        assert np.mean(np.asarray(found) == taken) > 0.98, "lazy greedy is plain greedy, but for ties"
        words = f"{plain:8.2f} {plain / lazy:10.1f}"
    print(f"{kind.kind:18} {count:9} {wanted:8} {lazy:8.2f} {limit:8.2f} {lazy / limit:8.1f} {words} "
          f"{peak:8.2f} {rows.nbytes / 2**30:8.2f}", flush=True)  # fmt: skip


def main() -> None:
    """Print a line for each objective and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shortlist", type=int, nargs="+", default=[2000, 20_000, 100_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--plain", type=int, default=2000, help="largest shortlist that plain greedy is timed on")
    asked = parser.parse_args()
    print(f"{'objective':18} {'shortlist':>9} {'selected':>8} {'lazy s':>8} {'limit s':>8} {'x limit':>8} "
          f"{'plain s':>8} {'plain/lazy':>10} {'peak GiB':>8} {'rows GiB':>8}")  # fmt: skip
    for count in asked.shortlist:
        for kind in (FacilityLocation(dim=asked.dim), LogDeterminant(dim=asked.dim)):
            measure(kind, count, asked.plain)


if __name__ == "__main__":
    main()
