"""What corrections for length and diversity do to selections of recorded tables, and what they cost.

    CLUSTERUCB_MATERIAL=... OMP_NUM_THREADS=1 python benchmarks/choosing.py [--seeds 4] [--budget 0.2]

Later period: searches over the last checkpoint's sketches, rewards at this one, the best 5 % selected. First table: the
rank correlation of influence with answer length over the pool, the median answer of the pool and of the selection under
each `selection.normalise`, and the share of the true top (by what is ranked by) that was drawn: where the search sees
influence, as a run does it (`length_trend`: corrected by what round 0 shows), and where it would see the corrected
rewards of the whole pool, which no run knows. Second table:
mean influence of the selection over that of the best, and how like the most similar selected one the shortlist's
samples are (mean cosine), for each kind of diversity and `quality`.
"""

import argparse
import os
from pathlib import Path

import numpy as np

from clusterucb import config
from clusterucb.compare.simulate import drive
from clusterucb.features.clustering import fit
from clusterucb.search import Search
from clusterucb.search.predictive import Knowledge
from clusterucb.selection.diversity import diverse_order, folded, prepared
from clusterucb.selection.length import fit_correction
from clusterucb.selection.length_bias import rank_correlation

TARGETS = ("gsm8k", "mbpp", "bbh")
KINDS = (config.AsTheyAre(), config.LengthTrend(), config.LengthQuantile())
SHARE = 0.05


class Open:
    """Admits everything."""

    def admits(self, position: int) -> bool:
        """Say yes."""
        return True

    def take(self, position: int) -> None:
        """Take note of nothing."""


def search_of(
    labels: np.ndarray, allocator: config.Allocator, budget: float, sketches: np.ndarray, seed: int
) -> Search:
    """Return a search as a run has it."""
    settings = config.Search(allocator=allocator, budget=budget)
    known = Knowledge().with_matrix(sketches) if allocator.kind == "predictive" else None
    return Search(labels, settings, SHARE, np.random.default_rng(seed), known)


def found(values: np.ndarray, drawn: np.ndarray) -> float:
    """Return the share of the top that was drawn."""
    top = np.argsort(-values, kind="stable")[: int(SHARE * len(values))]
    return float(np.isin(top, drawn).mean())


def lengths(earlier: np.lib.npyio.NpzFile, now: np.lib.npyio.NpzFile, seeds: int, budget: float) -> None:
    """Print the first table."""
    answers, sketches = now["num_label_tokens"].astype(np.int64), earlier["sketch"]
    everything = np.ones(len(answers), np.bool_)
    print(f"{'target':8} {'allocator':11} {'normalise':16} {'corr':>6} {'pool':>6} {'selected':>8} "
          f"{'blind':>7} {'recall':>7} {'ideal':>8}")  # fmt: skip
    for target in TARGETS:
        rewards = now[f"influence_{target}"].max(axis=1).astype(np.float64)
        correlation = rank_correlation(rewards, answers)
        for allocator in (config.UcbBeta(), config.Predictive()):
            for kind in KINDS:
                medians, blind, recalls, ideal = [], [], [], []
                whole = fit_correction(kind, rewards, answers, everything, answers)(rewards, answers)
                for seed in range(seeds):
                    labels = fit(sketches, 40, config.Clusters(), np.random.default_rng(seed), everything).labels_N
                    engines = [search_of(labels, allocator, budget, sketches, seed) for _ in range(3)]
                    unsteered = np.arange(len(rewards)) < engines[0].start
                    drawn = drive(engines[0], rewards)
                    correct = fit_correction(kind, rewards[drawn], answers[drawn], unsteered[: len(drawn)], answers)
                    blind.append(found(correct(rewards, answers), drawn))
                    if kind.kind == "length_trend":
                        drawn = drive(engines[1], correct(rewards, answers))
                    values = correct(rewards, answers)
                    best = drawn[np.argsort(-values[drawn], kind="stable")][: int(SHARE * len(rewards))]
                    medians.append(np.median(answers[best]))
                    recalls.append(found(values, drawn))
                    ideal.append(found(whole, drive(engines[2], whole)))
                print(f"{target:8} {allocator.kind:11} {kind.kind:16} {correlation:+6.2f} {np.median(answers):6.0f} "
                      f"{np.mean(medians):8.0f} {np.mean(blind):7.2f} {np.mean(recalls):7.2f} {np.mean(ideal):8.2f}",
                      flush=True)  # fmt: skip


def diversity(now: np.lib.npyio.NpzFile) -> None:
    """Print the second table."""
    rows = folded(now["sketch"], 512)
    print(f"\n{'target':8} {'diversity':18} {'quality':>7} {'influence':>9} {'coverage':>8}")
    for target in TARGETS:
        rewards = now[f"influence_{target}"].max(axis=1).astype(np.float64)
        count = int(SHARE * len(rewards))
        listed = np.argsort(-rewards, kind="stable")[: 2 * count]
        unit = prepared(rows[listed], True)
        for kind in (config.FacilityLocation, config.LogDeterminant):
            for quality in (1.0, 0.8, 0.5, 0.2, 0.0):
                chosen = diverse_order(
                    kind(quality=quality), np.arange(2 * count), rewards[listed], rows[listed], count, Open()
                )
                share = rewards[listed][chosen].mean() / rewards[listed][:count].mean()
                coverage = np.maximum(unit @ unit[chosen].T, 0).max(axis=1).mean()
                print(f"{target:8} {kind().kind:18} {quality:7.1f} {share:9.2f} {coverage:8.2f}", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--budget", type=float, default=0.2)
    asked = parser.parse_args()
    traces = Path(os.environ["CLUSTERUCB_MATERIAL"]) / "traces"
    earlier, now = (np.load(traces / f"smollm2_135m_ck{i}.npz") for i in (0, 1))
    lengths(earlier, now, asked.seeds, asked.budget)
    diversity(now)


if __name__ == "__main__":
    main()
