"""Whether prediction gains with the size of the pool: recall of clusters and of prediction on nested parts of a table.

    OMP_NUM_THREADS=1 python benchmarks/pool_size.py table.npz --target gsm8k --features hidden+source --sizes 1000,4000

The table is one of `record_table.py` or another that `clusterucb compare --table` reads. Every size is the first rows
of one seeded order; recall is of each part's own true top 5 %. The cost of the draws is the same share of every part.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from clusterucb import config
from clusterucb.compare.recorded import RecordedTable
from clusterucb.compare.simulate import simulate
from clusterucb.features.clustering import fit, resolve_k
from clusterucb.search.predictive import Knowledge
from clusterucb.types import IntArray

ALLOCATORS = (config.UcbBeta(), config.Predictive())


def part_of(known: Knowledge, rows: IntArray) -> Knowledge:
    """Return what is known of some rows."""
    return Knowledge(
        tuple(np.asarray(matrix_NF)[rows] for matrix_NF in known.matrices),
        tuple(dataclasses.replace(each, values_NC=each.values_NC[rows]) for each in known.columns),
        tuple(dataclasses.replace(each, codes_N=each.codes_N[rows]) for each in known.factors),
    )


def main() -> None:
    """Print a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--features", default="hidden+source")
    parser.add_argument("--sizes", default="1000,2000,4000,8000")
    parser.add_argument("--budgets", default="0.1,0.2")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = RecordedTable(args.table)
    known, rewards_N = table.described(args.features, args.target, None).known, table.reference(args.target).rewards_N
    budgets = [float(budget) for budget in args.budgets.split(",")]
    print(f"{args.target}, {args.features}, {args.seeds} seeds: recall at {', '.join(f'{b:.0%}' for b in budgets)}")
    for size in (int(size) for size in args.sizes.split(",")):
        found = np.zeros((len(ALLOCATORS), len(budgets), args.seeds))
        for seed in range(args.seeds):
            rows = np.sort(np.random.default_rng([seed, 1]).permutation(len(rewards_N))[:size])
            here = part_of(known, rows)
            for b, budget in enumerate(budgets):
                k = resolve_k(config.Clusters(), len(rows), budget)
                labels_N = fit(here.matrices[0], k, config.Clusters(), np.random.default_rng(seed)).labels_N
                for a, allocator in enumerate(ALLOCATORS):
                    search = config.Search(allocator=allocator, budget=budget)
                    rng = np.random.default_rng([seed, 2])
                    found[a, b, seed] = simulate(rewards_N[rows], labels_N, search, 0.05, rng, here).recall
        cells = [
            f"{allocator.kind} {' '.join(f'{recall:.3f}' for recall in found[a].mean(axis=1))}"
            for a, allocator in enumerate(ALLOCATORS)
        ]
        print(f"  {len(rows):6d} rows   " + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
