"""What the audit promises, over simulated runs on recorded influence tables.

    CLUSTERUCB_MATERIAL=... OMP_NUM_THREADS=1 python benchmarks/audit.py [--seeds 12]

Part 1: how often the 90 % interval of an audit after the search covers the true recall, over allocators, budgets,
targets, seeds and sizes of the audit. Every search is audited many times, for an audit costs nothing here; coverages
are means over searches, with their standard error. They are told apart by how many missed top samples the audit may
expect to meet, and by the slack of what is tested: undrawn samples between the last drawn sample that is in the top and
the first that is not, of which the recall says nothing. Part 2: `search.until`: how often a
run that stops has the asked recall, how often the certificate is reached within the budget, and what is scored,
against the budget and against the least that would have sufficed with the truth known.

Tables: smollm2_135m_ck1 (1,600 samples, three targets), clusters and features of ck0; with `--table` one of
`record_table.py`, clusters and features as `--features` says; and, because certificates need a few hundred audits
whatever the pool, larger synthetic pools.
"""

import argparse
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from clusterucb import audit, config
from clusterucb.compare.recorded import RecordedTable
from clusterucb.compare.simulate import SimulatedRun, simulate, simulate_until
from clusterucb.features.clustering import fit
from clusterucb.search.predictive import Knowledge

TARGETS = ("gsm8k", "mbpp", "bbh")
ALLOCATORS: dict[str, config.Allocator] = {
    each.kind: each for each in (config.UcbBeta(), config.Predictive(), config.ThreshNormal(), config.Uniform())
}
SHARE = 0.05
AUDITS: tuple[int | Literal["auto"], ...] = ("auto", 50, 200, 400)
AGAIN = 20


@dataclass(frozen=True, eq=False)
class Case:
    """A pool of known rewards."""

    name: str
    rewards_N: np.ndarray
    labels: list[np.ndarray]
    known: Knowledge


def recorded(folder: Path, seeds: int) -> list[Case]:
    """Return the later period of each target."""
    before, now = (RecordedTable(folder / f"smollm2_135m_ck{i}.npz") for i in (0, 1))
    features = {target: now.described("earlier+influence+match+source", target, before) for target in TARGETS}
    matrix = features[TARGETS[0]].matrix_NF
    labels = [fit(matrix, 40, config.Clusters(), np.random.default_rng(seed)).labels_N for seed in range(seeds)]
    return [Case(target, now.reference(target).rewards_N, labels, features[target].known) for target in TARGETS]


def one_shot(path: Path, parts: str, seeds: int) -> list[Case]:
    """Return every target of another table, which has its features from its own checkpoint."""
    table = RecordedTable(path)
    described = {target: table.described(parts, target, None) for target in table.targets}
    matrix = described[table.targets[0]].matrix_NF
    labels = [fit(matrix, 40, config.Clusters(), np.random.default_rng(seed)).labels_N for seed in range(seeds)]
    return [Case(target, table.reference(target).rewards_N, labels, each.known) for target, each in described.items()]


def synthetic(size: int, seeds: int) -> Case:
    """Return a pool whose clusters say about half of the reward."""
    rng = np.random.default_rng(size)
    labels_N = rng.integers(0, int(size**0.5), size).astype(np.int32)
    rewards_N = 0.7 * rng.normal(size=labels_N.max() + 1)[labels_N] + 0.5 * rng.standard_t(6, size=size)
    seen = (rewards_N + rng.normal(size=size))[:, None] + 0.3 * rng.normal(size=(size, 8))
    return Case(f"synthetic {size:,}", rewards_N, [labels_N] * seeds, Knowledge((seen.astype(np.float16),)))


def coverage(cases: list[Case], allocators: list[config.Allocator], seeds: int) -> None:
    """Print how often the interval covers."""
    every: list[float] = []
    expected: list[float] = []
    slacks: list[int] = []
    by_size: dict[int | str, list[float]] = {}
    for allocator in allocators:
        for budget in (0.1, 0.2, 0.3):
            errors: list[float] = []
            line: dict[int | str, list[float]] = {size: [] for size in AUDITS}
            for case in cases:
                for seed in range(seeds):
                    search = config.Search(allocator=allocator, budget=budget)
                    rng = np.random.default_rng([seed, 1])
                    run = simulate(case.rewards_N, case.labels[seed], search, SHARE, rng, case.known)
                    for size in AUDITS:
                        covered, met, off = audited(case, run, size, np.random.default_rng([seed, 2]))
                        slacks.append(slack(case, run))
                        line[size].append(covered)
                        expected.append(met)
                        errors += off
            for size, covered in line.items():
                by_size.setdefault(size, []).extend(covered)
                every += covered
            cells = "  ".join(f"{size}: {np.mean(covered):6.1%}" for size, covered in line.items())
            print(f"  {allocator.kind:14} {budget:4.0%}  {cells}  (bias {np.mean(errors):+.3f})", flush=True)
    covered, met, between = np.asarray(every), np.asarray(expected), np.asarray(slacks)
    for size, values in by_size.items():
        print(f"  audit of {size:>4}: {said(np.asarray(values))}")
    for low, high in pairwise((0.0, 0.5, 1.0, 2.0, 5.0, 10.0, np.inf)):
        within = (low <= met) & (met < high)
        if within.any():
            print(f"  {low:g} to {high:g} missed top samples expected in the audit: {said(covered[within])}")
    for low, high in pairwise((0, 2, 4, 8, 10**9)):
        within = (low <= between) & (between < high)
        if within.any():
            print(f"  slack {low} to {high - 1}: {said(covered[within])}")
    print(f"  all: {said(covered)}", flush=True)


def slack(case: Case, run: SimulatedRun) -> int:
    """Return the undrawn samples between the last drawn one of the true top and the next drawn one."""
    k = max(1, int(SHARE * len(case.rewards_N)))
    drawn = np.sort(case.rewards_N[run.drawn])[::-1][:k]
    undrawn = np.sort(case.rewards_N[np.setdiff1d(np.arange(len(case.rewards_N)), run.drawn)])
    above = len(undrawn) - np.searchsorted(undrawn, drawn, side="right")
    j = round(run.recall * k)
    return int((above[j] if j < k else 0) - (above[j - 1] if j else 0))


def said(covered: np.ndarray) -> str:
    """Return a mean over searches with its standard error."""
    return f"{covered.mean():6.1%} +- {covered.std() / len(covered) ** 0.5:.1%} of {len(covered)} searches"


def audited(
    case: Case, run: SimulatedRun, size: int | Literal["auto"], rng: np.random.Generator
) -> tuple[float, float, list[float]]:
    """Audit one search again and again: the share of intervals that cover, the missed top samples that an audit meets
    on average, and the errors of the estimates."""
    num = len(case.rewards_N)
    undrawn, k = np.setdiff1d(np.arange(num), run.drawn), max(1, int(SHARE * num))
    drawn = case.rewards_N[run.drawn]
    missed = round((1 - run.recall) * k)
    covered: list[bool] = []
    errors: list[float] = []
    for _ in range(AGAIN):
        chosen = audit.choose(undrawn, num, config.Audit(samples=size), rng)
        found = audit.estimate(drawn, case.rewards_N[chosen], len(undrawn), k, 0.9)
        covered.append(found.low - 1e-9 <= run.recall <= found.high + 1e-9)
        errors.append(found.recall - run.recall)
        met = missed * len(chosen) / len(undrawn)
    return float(np.mean(covered)), met, errors


def stopping(case: Case, recall: float, budget: float, allocators: list[config.Allocator], seeds: int) -> None:
    """Print how `until` does on one pool."""
    for allocator in allocators:
        reached: list[bool] = []
        kept: list[bool] = []
        valid: list[bool] = []
        scored: list[float] = []
        enough: list[float] = []
        for seed in range(seeds):
            until = config.Until(recall=recall)
            search = config.Search(allocator=allocator, budget=budget, until=until)
            rngs = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 4])
            run = simulate_until(case.rewards_N, case.labels[seed], search, SHARE, *rngs, case.known, stop=False)
            stopped = [i for i, found in enumerate(run.certificates) if found.low >= recall]
            valid.append(all(c.low <= r + 1e-9 for c, r in zip(run.certificates, run.recalls, strict=True)))
            reached.append(bool(stopped))
            at = stopped[0] if stopped else len(run.looks) - 1
            if stopped:
                kept.append(run.recalls[at] >= recall - 1e-9)
            spent = [look.draws + look.audited for look in run.looks]
            scored.append(spent[at] / len(case.rewards_N))
            first = [s for s, r in zip(spent, run.recalls, strict=True) if r >= recall - 1e-9]
            enough.append((first[0] if first else spent[-1]) / len(case.rewards_N))
        print(
            f"  {case.name:18} {allocator.kind:10} recall {recall:.0%}, budget {budget:.0%}: certified in "
            f"{np.mean(reached):4.0%} of {seeds} runs, of these {np.mean(kept or [np.nan]):5.1%} have it; "
            f"all bounds of a run valid in {np.mean(valid):.1%}; scored {np.mean(scored):.1%} "
            f"(the truth was reached at the look of {np.mean(enough):.1%})",
            flush=True,
        )


def main() -> None:
    """Print both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--only", choices=("coverage", "until"))
    parser.add_argument("--synthetic", type=int, nargs="*", default=[20_000])
    parser.add_argument("--table", type=Path)
    parser.add_argument("--features", default="proxy1+match-proxy1+source")
    parser.add_argument("--allocators", nargs="*", choices=tuple(ALLOCATORS))
    parser.add_argument("--targets", nargs="*", help="some of the tables' targets")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.table is None:
        cases = recorded(Path(os.environ["CLUSTERUCB_MATERIAL"]) / "traces", args.seeds)
    else:
        cases = one_shot(args.table, args.features, args.seeds)
    cases = [case for case in cases if args.targets is None or case.name in args.targets]
    if args.only != "until":
        print(f"coverage of the 90 % interval, {len(cases)} targets, {args.seeds} seeds, {AGAIN} audits a search")
        coverage(cases, [ALLOCATORS[name] for name in args.allocators or ALLOCATORS], args.seeds)
    if args.only != "coverage":
        print("until, at a confidence of 90 %")
        chosen = [ALLOCATORS[name] for name in args.allocators or ("ucb_beta", "predictive")]
        for case in cases:
            stopping(case, 0.8, 0.8, chosen, args.seeds)
        for case in cases:
            stopping(case, 0.95, 1.0, chosen, args.seeds)
        for size in args.synthetic:
            for recall in (0.8, 0.9, 0.95):
                stopping(synthetic(size, args.seeds), recall, 0.6, chosen, args.seeds)


if __name__ == "__main__":
    main()
