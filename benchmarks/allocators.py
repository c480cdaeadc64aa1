"""What prediction finds where clusters are drawn from: recorded influence tables, one line a set of features.

    CLUSTERUCB_MATERIAL=... OMP_NUM_THREADS=1 python benchmarks/allocators.py [--seeds 4] [--only later|one-shot]

Later period: features and clusters from one checkpoint, rewards at the next. One shot: features of the checkpoint
itself that need no gradient of the model, or a small proxy's gradients. Recall of the true top 5 % at budgets of 10, 20
and 30 %, mean over seeds and three targets, in brackets each target's. `ucb_beta` has the paper's setting: K = 40,
5 % cold start, 8 draws a round; `predictive` its defaults.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clusterucb import config
from clusterucb.compare.comparison import PoolFeatures
from clusterucb.compare.recorded import RecordedTable
from clusterucb.compare.simulate import simulate
from clusterucb.features.clustering import fit
from clusterucb.search.predictive import Factor, Knowledge

TARGETS = ("gsm8k", "mbpp", "bbh")
BUDGETS = (0.1, 0.2, 0.3)
PAPER = config.Search(cold_start=0.05, cold_start_min=1, rounds=config.Rounds(first=8, growth=1.0))
PREDICTIVE = config.Search(allocator=config.Predictive())


@dataclass(frozen=True)
class Line:
    """Features of each target by name, and who draws."""

    name: str
    search: config.Search
    features: Callable[[str], PoolFeatures]


def lines(folder: Path) -> tuple[list[Line], list[Line]]:
    """Return what is compared in a later period and in one shot."""
    before, now = (RecordedTable(folder / f"smollm2_135m_ck{i}.npz") for i in (0, 1))
    sources = Knowledge(factors=(Factor("source", now.sources()),))
    hidden, every = now.features("hidden"), np.ones(len(now.sources()), bool)
    proxy = PoolFeatures("proxy", np.load(folder / "proxy.npz")["sketch"], every, 0.0)

    def later(parts: str) -> Callable[[str], PoolFeatures]:
        return lambda target: now.described(parts, target, before)

    def beside(features: PoolFeatures, known: Knowledge) -> Callable[[str], PoolFeatures]:
        return lambda target: PoolFeatures(features.name, features.matrix_NF, every, 0.0, known)

    noise = np.random.default_rng(0).standard_normal((len(every), 256)).astype(np.float16)
    noisy = PoolFeatures("noise", noise, every, 0.0)
    return [
        Line("ucb_beta, earlier sketches", PAPER, later("earlier")),
        *(
            Line(f"predictive, {parts}", PREDICTIVE, later(parts))
            for parts in (
                "earlier",
                "earlier+influence",
                "earlier+match",
                "earlier+influence+match",
                "earlier+influence+match+source",
                "earlier+hidden+influence+match+source",
            )
        ),
    ], [
        Line("ucb_beta, hidden", PAPER, beside(hidden, Knowledge())),
        Line("predictive, hidden", PREDICTIVE, beside(hidden, Knowledge())),
        Line("predictive, hidden+source", PREDICTIVE, beside(hidden, sources)),
        Line("ucb_beta, proxy gradients", PAPER, beside(proxy, Knowledge())),
        Line("predictive, proxy gradients", PREDICTIVE, beside(proxy, Knowledge())),
        Line("predictive, proxy gradients+source", PREDICTIVE, beside(proxy, sources)),
        Line(
            "predictive, proxy+hidden+source",
            PREDICTIVE,
            beside(proxy, Knowledge((hidden.matrix_NF,), (), sources.factors)),
        ),
        Line("ucb_beta, noise", PAPER, beside(noisy, Knowledge())),
        Line("predictive, noise", PREDICTIVE, beside(noisy, Knowledge())),
    ]


def main() -> None:
    """Print a table a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--k", type=int, default=40)
    parser.add_argument("--only", choices=("later", "one-shot"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ["CLUSTERUCB_MATERIAL"]) / "traces"
    now = RecordedTable(folder / "smollm2_135m_ck1.npz")
    rewards = {target: now.reference(target).rewards_N for target in TARGETS}
    labels: dict[tuple[int, int], np.ndarray] = {}
    for title, chosen in zip(("later", "one-shot"), lines(folder), strict=True):
        if args.only not in (None, title):
            continue
        print(
            f"{title}: recall at {', '.join(f'{b:.0%}' for b in BUDGETS)}; K={args.k}, {args.seeds} seeds", flush=True
        )
        for line in chosen:
            cells: list[str] = []
            for budget in BUDGETS:
                search = line.search.model_copy(update={"budget": budget})
                recall = np.zeros((args.seeds, len(TARGETS)))
                for i, target in enumerate(TARGETS):
                    features = line.features(target)
                    for seed in range(args.seeds):
                        key = (id(features.matrix_NF), seed) if title == "one-shot" else (0, seed)
                        if key not in labels:
                            rng = np.random.default_rng(seed)
                            labels[key] = fit(features.matrix_NF, args.k, config.Clusters(), rng).labels_N
                        rng, known = np.random.default_rng([seed, i]), features.known
                        run = simulate(rewards[target], labels[key], search, 0.05, rng, known)
                        recall[seed, i] = run.recall
                cells.append(f"{recall.mean():.3f} ({' '.join(f'{r:.2f}' for r in recall.mean(axis=0))})")
            print(f"  {line.name:50}" + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
