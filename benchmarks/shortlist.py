"""How much of the exact top a shortlist by sketch finds: the price of answering a later target from kept sketches.

    python benchmarks/shortlist.py --table TABLE.npz ...        (recorded tables, in seconds)
    python benchmarks/shortlist.py --run runs/exhaustive ...    (runs that scored everything exactly and kept sketches)

The best `share` of the pool by exact influence is what a selection wants. Sketches rank all samples, the first `factor`
times as many are scored exactly and the best of these are selected: recall is the share of the wanted that they
contain, kept influence the sum of the selected influences over the best possible sum. Factor 1 is selection by sketch
alone. Printed too: the gradients that the answer takes, as a share of scoring everything.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clusterucb.gradients.sketch_influence import sketch_influence
from clusterucb.gradients.targets import TargetBank
from clusterucb.run.score_log import ScoreArchive
from clusterucb.run.score_table import ScoreTable

FACTORS = (1.0, 1.5, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Case:
    """Exact rewards and those by sketch, of the same samples."""

    name: str
    dim: int
    exact_N: np.ndarray
    sketched_N: np.ndarray


def of_table(path: Path) -> Iterator[Case]:
    with np.load(path) as table:
        sketch_ND = table["sketch"]
        for key in table.files:
            if key.startswith("target_sketch_"):
                name = key.removeprefix("target_sketch_")
                exact_N = table[f"influence_{name}"].max(axis=1)
                sketched_N = sketch_influence(sketch_ND, table[key].astype(np.float32)).max(axis=1)
                yield Case(f"{path.stem} {name}", sketch_ND.shape[1], exact_N, sketched_N)


def of_run(path: Path) -> Iterator[Case]:
    state = path / "state"
    bank, archive = TargetBank.load(state / "target.safetensors"), ScoreArchive(state)
    assert bank.sketch_SD is not None, f"{path} kept no sketches"
    target_SD = bank.sketch_SD.numpy()
    table = ScoreTable.of(archive, len(bank.subtasks))
    sketched: dict[int, float] = {}
    for samples_B, sketch_BD in archive.sketches():
        rewards_B = sketch_influence(sketch_BD, target_SD).max(axis=1)
        sketched |= dict(zip(samples_B.tolist(), rewards_B.tolist(), strict=True))
    sketched_N = np.asarray([sketched[sample] for sample in table.samples_B.tolist()])
    yield Case(path.name, target_SD.shape[1], table.reward_B, sketched_N)


def outcome(case: Case, share: float, factor: float) -> tuple[float, float]:
    """Return recall and kept influence."""
    wanted = max(1, int(share * len(case.exact_N)))
    best = np.argsort(-case.exact_N, kind="stable")[:wanted]
    listed = np.argsort(-case.sketched_N, kind="stable")[: int(np.ceil(factor * wanted))]
    chosen = listed[np.argsort(-case.exact_N[listed], kind="stable")[:wanted]]
    return len(np.intersect1d(best, chosen)) / wanted, float(case.exact_N[chosen].sum() / case.exact_N[best].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, nargs="*", default=[])
    parser.add_argument("--run", type=Path, nargs="*", default=[])
    parser.add_argument("--share", type=float, default=0.05)
    asked = parser.parse_args()
    cases = [case for path in asked.table for case in of_table(path)]
    cases += [case for path in asked.run for case in of_run(path)]
    print(f"recall of the exact top {asked.share:.0%} / kept influence, by shortlist factor (gradients it takes)")
    heads = "".join(f"{f'{factor:g}x ({factor * asked.share:.0%})':>16}" for factor in FACTORS)
    print(f"{'':34}{'N':>7}{'D':>7}{heads}")
    for case in cases:
        cells = (outcome(case, asked.share, factor) for factor in FACTORS)
        row = "".join(f"{f'{recall:.2f} / {kept:.2f}':>16}" for recall, kept in cells)
        print(f"{case.name:34}{len(case.exact_N):7}{case.dim:7}{row}")


if __name__ == "__main__":
    main()
