"""How far influence moves from one period to the next, and what a warm start is worth.

    CLUSTERUCB_MATERIAL=... python benchmarks/drift.py tables                 # the recorded tables of two checkpoints
    CLUSTERUCB_MATERIAL=... python benchmarks/drift.py prepare drift --model MODEL --rows 480
    clusterucb run drift/loop.yaml --out drift/run                            # every period scores everything
    python benchmarks/drift.py alone drift                                    # or, with a tiny model, in this process
    python benchmarks/drift.py run drift/run

The loop of `prepare` has a budget of 1, so that each period knows the influence of the whole pool at its own
checkpoint; selections are then exact, and the search of a smaller budget can be replayed on what is known. Printed for
each pair of periods: rank correlation, how much of the old top is the new top, and the recall of the new top by
`ucb_beta` as the paper has it, by the same with a warm start that knows all of the last period (as period 2 does), by
one that knows what such a search drew in the last period (as later ones do), and by the old ranking alone. In
brackets the gain over the fresh search, seed by seed, with its standard error.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
import yaml

from clusterucb import config
from clusterucb.compare.simulate import simulate
from clusterucb.features.clustering import fit, resolve_k
from clusterucb.loop.in_process import loop_in_process
from clusterucb.loop.periods import LoopFolders
from clusterucb.loop.summary import rank_correlation
from clusterucb.run.events import Event, StageStarted, Trained
from clusterucb.run.prepared import open_prepared
from clusterucb.run.run_folder import RunFolder
from clusterucb.settings import load_config

BUDGETS = (0.1, 0.2, 0.3)
TARGETS = ("gsm8k", "mbpp", "bbh")

Real = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recording:
    """Rewards of the same samples at one checkpoint after the other, and the features of the first."""

    name: str
    features_ND: npt.NDArray[np.float32]
    rewards_TN: Real

    @cache  # noqa: B019 (a handful of recordings, for as long as the program runs)
    def labels(self, k: int | None, seed: int) -> npt.NDArray[np.int32]:
        """Cluster by the features; `k` as a run with a budget of 20 % has it where none is given."""
        settings = config.Clusters()
        number = resolve_k(settings, len(self.features_ND), 0.2) if k is None else k
        return fit(self.features_ND, number, settings, np.random.default_rng(seed)).labels_N


def of_tables(folder: Path) -> list[Recording]:
    """Read the two checkpoints that were recorded with SmolLM2-135M-Instruct, a recording for each target."""
    periods = [np.load(folder / f"smollm2_135m_ck{i}.npz") for i in (0, 1)]
    features_ND = centred(periods[0]["sketch"].astype(np.float32))
    return [
        Recording(
            target,
            features_ND,
            np.stack([table[f"influence_{target}"].max(axis=1).astype(np.float64) for table in periods]),
        )
        for target in TARGETS
    ]


def of_run(run: Path) -> Recording:
    """Read a loop each of whose periods scored everything."""
    folders, periods = LoopFolders(run), len(list(run.glob("period-*")))
    tables = [pq.read_table(folders.selection(i) / "scores.parquet").to_pydict() for i in range(1, periods + 1)]
    names = sorted(set[str].intersection(*(set(table["id"]) for table in tables)))
    rewards = [dict(zip(table["id"], table["influence"], strict=True)) for table in tables]
    state = folders.selection(1) / "state"
    ids = [str(name) for name in pool_ids(run)]
    rows = [ids.index(name) for name in names]
    features_ND = np.load(state / "features.npy")[rows].astype(np.float32)
    return Recording(run.name, centred(features_ND), np.asarray([[t[name] for name in names] for t in rewards]))


def centred(sketches_ND: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The momentum is a common offset of every Adam gradient; without it clusters say more."""
    unit_ND = sketches_ND / np.linalg.norm(sketches_ND, axis=1, keepdims=True)
    return unit_ND - unit_ND.mean(axis=0)


def report(found: Sequence[Recording], share: float, seeds: int, k: int | None, discount: float) -> None:
    """Print a block for every pair of periods; recordings of the same pool are averaged."""
    for last in range(len(found[0].rewards_TN) - 1):
        for each in found:
            old_N, new_N = each.rewards_TN[last], each.rewards_TN[last + 1]
            count = max(1, int(share * len(new_N)))
            again = len(set(top(old_N, count)) & set(top(new_N, count))) / count
            rho = rank_correlation(old_N.tolist(), new_N.tolist())
            periods = f"{each.name}, period {last + 1} to {last + 2}"
            print(f"{periods}: rank correlation {rho:.3f}, {again:.0%} of the top {count} stay")
        print(f"  recall of the top {share:.0%}" + "  " + "".join(f"{budget:>9.0%}{'':17}" for budget in BUDGETS))
        fresh: list[list[float]] = []
        for name in ("fresh", "warm, all known", "warm, drawn known", "old ranking"):
            cells = [
                [recall(name, each, last, share, budget, seed, k, discount) for each in found for seed in range(seeds)]
                for budget in BUDGETS
            ]
            fresh = fresh or cells
            gains = [np.subtract(cell, before) for cell, before in zip(cells, fresh, strict=True)]
            gained = [f"({gain.mean():+.3f} ±{gain.std() / np.sqrt(len(gain)):.3f})" for gain in gains]
            line = "".join(
                f"{np.mean(cell):>9.3f} {'' if name == 'fresh' else words:16}"
                for cell, words in zip(cells, gained, strict=True)
            )
            print(f"  {name:20}{line}", flush=True)


def recall(
    way: str, found: Recording, last: int, share: float, budget: float, seed: int, k: int | None, discount: float
) -> float:
    """Return the share of the new top that is drawn."""
    old_N, new_N = found.rewards_TN[last], found.rewards_TN[last + 1]
    if way == "old ranking":
        count = max(1, int(share * len(new_N)))
        return float(np.isin(top(new_N, count), top(old_N, int(budget * len(new_N)))).mean())
    labels_N = found.labels(k, seed)
    fresh = config.Search.model_validate({"budget": budget})
    if way == "fresh":
        return simulate(new_N, labels_N, fresh, share, np.random.default_rng([seed, 1])).recall
    known_N = old_N
    if way == "warm, drawn known":  # period by period, each beginning with what the one before drew
        known_N = drawn_before(found, last, fresh, labels_N, share, seed, discount)
    run = simulate(
        new_N, labels_N, warm(budget, discount), share, np.random.default_rng([seed, 1]), earlier_NM=known_N[:, None]
    )
    return run.recall


def drawn_before(
    found: Recording, last: int, fresh: config.Search, labels_N: npt.NDArray[np.int32], share: float, seed: int,
    discount: float,
) -> Real:  # fmt: skip
    """Return the rewards that a search had seen by the end of period `last`, NaN elsewhere."""
    known_N: Real | None = None
    for period in range(last + 1):
        rewards_N, rng = found.rewards_TN[period], np.random.default_rng([seed, 2, period])
        if known_N is None:
            drawn = simulate(rewards_N, labels_N, fresh, share, rng).drawn
        else:
            search = warm(fresh.budget, discount)
            drawn = simulate(rewards_N, labels_N, search, share, rng, earlier_NM=known_N[:, None]).drawn
        known_N = np.full(len(rewards_N), np.nan)
        known_N[drawn] = rewards_N[drawn]
    assert known_N is not None
    return known_N


def warm(budget: float, discount: float) -> config.Search:
    """Return a search with a warm start; its path is not read here."""
    return config.Search.model_validate({"budget": budget, "warm_start": {"path": "-", "discount": discount}})


def top(rewards_N: Real, count: int) -> npt.NDArray[np.int64]:
    """Return the best samples."""
    return np.argsort(-rewards_N, kind="stable")[:count]


def pool_ids(run: Path) -> list[str]:
    """Return the ids of a loop's pool, in its order."""
    pool, _ = open_prepared(RunFolder(LoopFolders(run).selection(1)))
    return list(pool.ids)


def say(event: Event) -> None:
    """Print where a loop in this process is."""
    if isinstance(event, StageStarted | Trained):
        print(event.model_dump_json(exclude={"time"}), flush=True)


def prepare(
    folder: Path, material: Path, model: Path, rows: int, target: str, learning_rate: float, share: float
) -> None:
    """Write a random part of the pool and the loop over it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (material / "pool" / "pool.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    chosen = np.sort(np.random.default_rng(0).permutation(len(lines))[:rows])
    (folder / "pool.jsonl").write_text("".join(lines[i] + "\n" for i in chosen), encoding="utf-8")
    settings = {
        "pool": {"path": str(folder / "pool.jsonl")},
        "target": {"path": str(material / "pool" / "targets" / f"{target}.dev.jsonl")},
        "model": {"base": str(model)},
        "tokens": {"max_length": 256},
        "gradients": {"batch_tokens": 256},
        "search": {"budget": 1.0},
        "selection": {"share": share},
        "audit": {"samples": 0},
        "training": {"learning_rate": learning_rate, "batch_size": 8, "batch_tokens": 512, "ranks": 2, "save_every": 4},
        "warmup": {"share": 0.1},
        "loop": {"periods": 3, "epochs": 2},
        "workers": {"count": 2},
    }
    (folder / "loop.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    print(json.dumps({"rows": rows, "config": str(folder / "loop.yaml")}))


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tables", "prepare", "alone", "run"))
    parser.add_argument("folder", type=Path, nargs="?", help="of `prepare`, or a loop's run folder")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--target", default="gsm8k")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--share", type=float, default=0.05, help="of the pool, whose recall is asked")
    parser.add_argument("--seeds", type=int, default=8, help="of clusters and draws")
    parser.add_argument("--k", type=int, help="clusters; as a run has them where left out")
    parser.add_argument("--discount", type=float, default=0.5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "tables":
        found = of_tables(Path(os.environ["CLUSTERUCB_MATERIAL"]) / "traces")
    elif args.folder is None:
        parser.error(f"{args.what} needs a folder")
    elif args.what == "prepare":
        if args.model is None:
            parser.error("prepare needs --model")
        material = Path(os.environ["CLUSTERUCB_MATERIAL"])
        return prepare(
            args.folder.resolve(),
            material,
            args.model.resolve(),
            args.rows,
            args.target,
            args.learning_rate,
            args.share,
        )
    elif args.what == "alone":
        loop_in_process(load_config(args.folder / "loop.yaml"), RunFolder(args.folder / "run"), say)
        found = [of_run(args.folder / "run")]
    else:
        found = [of_run(args.folder)]
    report(found, args.share, args.seeds, args.k, args.discount)


if __name__ == "__main__":
    main()
