"""One round planned by prediction at ten million samples, on one core: seconds and peak memory.

    OMP_NUM_THREADS=1 python benchmarks/predictive_scale.py [--samples 10000000] [--features 256] [--clusters 3162]

Features are a memory-mapped half-precision matrix in a temporary folder. Reducing them to the working set happens once
a run; then rounds of the default schedule are told and the next one is planned.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from clusterucb import config
from clusterucb.search import Search
from clusterucb.search.predictive import Columns, Knowledge
from clusterucb.types import Observations


def peak_gib() -> float:
    """Return the largest resident set so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


def main() -> None:
    """Print seconds and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=3162)
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, args.clusters, args.samples, dtype=np.int32)
    weight_F = rng.standard_normal(args.features).astype(np.float32) / np.arange(1, args.features + 1)
    rewards_N = rng.standard_normal(args.samples, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        shape, path = (args.samples, args.features), Path(folder) / "features.npy"
        file = path.open("wb")
        header = {"descr": "<f2", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, args.samples, 2**16):
            block = rng.standard_normal((min(2**16, args.samples - start), args.features), dtype=np.float32)
            rewards_N[start : start + 2**16] += block @ weight_F
            file.write(block.astype(np.float16).tobytes())
        file.close()
        matrix_NF = np.load(path, mmap_mode="r")
        known = Knowledge((matrix_NF,), (Columns("hint", rewards_N[:, None] + rng.standard_normal((args.samples, 1))),))
        settings = config.Search(allocator=config.Predictive(components=args.components))
        begin = time.perf_counter()
        search = Search(labels_N, settings, 0.05, np.random.default_rng(1), known)
        print(f"{args.samples:,} x {args.features}, {args.clusters:,} clusters: reduced and ordered in "
              f"{time.perf_counter() - begin:.1f} s", flush=True)  # fmt: skip
    del matrix_NF, known  # the search has reduced it
    print(
        f"  peak so far {peak_gib():.2f} GiB, of it at most {args.samples * args.features / 2**29:.2f} GiB mapped file"
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    for _ in range(args.rounds):
        begin = time.perf_counter()
        planned = search.ask()
        assert planned is not None, "told everything, yet no round"
        asked = time.perf_counter()
        search.tell(planned.index, Observations(planned.samples_B, rewards_N[planned.samples_B].astype(np.float64)))
        told = time.perf_counter()
        memory = peak_gib()
        print(f"  round {planned.index}: {len(planned.samples_B):,} draws planned in {asked - begin:.1f} s, told in "
              f"{told - asked:.1f} s; mean reward {rewards_N[planned.samples_B].mean():.2f}; peak {memory:.2f} GiB",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
