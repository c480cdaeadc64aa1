"""The search alone at ten million samples: plan and tell, on one core, against the physical limit.

    python benchmarks/search_scale.py [--samples 10000000] [--clusters 10000] [--budget 0.2] [--allocator ucb_beta]

The limit is what can't be avoided: permute the pool once, sort it by cluster once, and read the rewards of the draws.
"""

import argparse
import resource
import time

import numpy as np

from clusterucb import config
from clusterucb.search import Search
from clusterucb.types import Observations


def main() -> None:
    """Print seconds, peak memory and the ratio to the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--clusters", type=int, default=10_000)
    parser.add_argument("--budget", type=float, default=0.2)
    parser.add_argument("--allocator", default="ucb_beta")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, args.clusters, args.samples, dtype=np.int32)
    rewards_N = rng.standard_normal(args.samples, dtype=np.float32)
    rewards_N += rng.standard_normal(args.clusters, dtype=np.float32)[labels_N]
    search_config = config.Search.model_validate({"allocator": {"kind": args.allocator}, "budget": args.budget})

    start = time.perf_counter()
    search = Search(labels_N, search_config, 0.05, np.random.default_rng(1))
    built = time.perf_counter()
    while not search.done:
        planned = search.ask()
        assert planned is not None, "told everything, yet no round"
        rewards_B = rewards_N[planned.samples_B].astype(np.float64)
        search.tell(planned.index, Observations(planned.samples_B, rewards_B))
    finished = time.perf_counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    order = np.arange(args.samples, dtype=np.int32)
    limit_start = time.perf_counter()
    np.random.default_rng(1).shuffle(order)
    order = order[np.argsort(labels_N[order].astype(np.int16), kind="stable")]
    rewards_N[order[: search.ledger.planned]].sum()
    limit = time.perf_counter() - limit_start

    print(
        f"{args.allocator}: {args.samples:,} samples, {args.clusters:,} clusters, {search.ledger.observed:,} draws in "
        f"{search.rounds_told} rounds: build {built - start:.1f} s, plan and tell {finished - built:.1f} s, "
        f"{(finished - start) / limit:.1f} x the limit of {limit:.1f} s; peak {memory:.2f} GiB"
    )


if __name__ == "__main__":
    main()
