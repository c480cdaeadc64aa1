"""What batching costs in recall: an influence table recorded from a real model, searched with ever larger rounds.

    CLUSTERUCB_MATERIAL=... python benchmarks/rounds.py [--seeds 4] [--allocator ucb_beta]

The setting is a later period: clusters from gradients at one checkpoint, rewards at the next. Recall of the true
top 5 %, mean over three targets and the seeds (of clusters and draws), and in brackets the influence of the selection
relative to that of exhaustive search.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from clusterucb import config
from clusterucb.compare.simulate import simulate
from clusterucb.features.clustering import fit

TARGETS = ("gsm8k", "mbpp", "bbh")


@dataclass(frozen=True)
class Schedule:
    """A way to cut the budget in rounds."""

    name: str
    rounds: config.Rounds


SCHEDULES = (
    Schedule("one draw a round", config.Rounds(first=1, growth=1.0)),
    Schedule("8 draws a round", config.Rounds(first=8, growth=1.0)),
    Schedule("growth 1.1 (default)", config.Rounds()),
    Schedule("growth 1.1, lag 1", config.Rounds(lag=1)),
    Schedule("growth 1.25", config.Rounds(growth=1.25)),
    Schedule("64 at least, growth 1.5", config.Rounds(first=64, growth=1.5)),
    Schedule("one round", config.Rounds(first=10**9)),
)


@dataclass(frozen=True, eq=False)
class Table:
    """Recorded rewards of one target, and the pool's arms."""

    rewards_N: npt.NDArray[np.float64]
    labels_N: npt.NDArray[np.int32]


def load(folder: Path, k: int, seed: int) -> list[Table]:
    """Cluster the earlier checkpoint's sketches and read the later one's rewards.

    The momentum is a common offset of every Adam gradient (here the mean of the unit sketches has length 0.9): sketches
    are centred, or most of the pool lands in one cluster.
    """
    before, after = np.load(folder / "smollm2_135m_ck0.npz"), np.load(folder / "smollm2_135m_ck1.npz")
    sketches_ND = before["sketch"].astype(np.float32)
    sketches_ND /= np.linalg.norm(sketches_ND, axis=1, keepdims=True)
    sketches_ND -= sketches_ND.mean(axis=0)
    labels_N = fit(sketches_ND, k, config.Clusters(), np.random.default_rng(seed)).labels_N
    return [Table(after[f"influence_{target}"].max(axis=1).astype(np.float64), labels_N) for target in TARGETS]


def main() -> None:
    """Print a row for every schedule and a column for every budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--k", type=int, default=40)
    parser.add_argument("--allocator", default="ucb_beta")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ["CLUSTERUCB_MATERIAL"]) / "traces"
    tables = [load(folder, args.k, seed) for seed in range(args.seeds)]
    print(f"{args.allocator}, K={args.k}, {args.seeds} seeds x {len(TARGETS)} targets: recall (influence)")
    print(f"{'':28}" + "".join(f"{budget:>16.0%}" for budget in (0.1, 0.2, 0.3)))
    for schedule in (*SCHEDULES, None):
        cells: list[str] = []
        for budget in (0.1, 0.2, 0.3):
            kind = {"kind": args.allocator if schedule else "uniform"}
            search = config.Search.model_validate({"allocator": kind, "budget": budget})
            if schedule:
                search = search.model_copy(update={"rounds": schedule.rounds})
            runs = [
                simulate(table.rewards_N, table.labels_N, search, 0.05, np.random.default_rng([seed, i]))
                for seed, group in enumerate(tables)
                for i, table in enumerate(group)
            ]
            recall, influence = np.mean([(run.recall, run.influence) for run in runs], axis=0)
            cells.append(f"{recall:.3f} ({influence:.3f})")
        print(f"{schedule.name if schedule else 'uniform':28}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
