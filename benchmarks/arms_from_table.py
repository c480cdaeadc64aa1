"""What a search finds in a recorded table, and what scoring everything finds, as files of ids for `clusterucb study`.

    python benchmarks/arms_from_table.py TABLE --target gsm8k --features hiddenfinal --budget 0.2 --out FOLDER

The search is the product's own: clusters, allocator, rounds and budget of the configuration's defaults.
"""

import argparse
from pathlib import Path

import numpy as np

from clusterucb.compare.recorded import RecordedTable
from clusterucb.compare.simulate import drive
from clusterucb.features.clustering import fit, resolve_k
from clusterucb.run.streams import Streams
from clusterucb.search import Search
from ray_app.compare import settings_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--target", required=True)
    parser.add_argument("--features", required=True)
    parser.add_argument("--budget", type=float, default=0.2)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    config = settings_of(asked.table, [f"search.budget={asked.budget}", *asked.overrides])
    table = RecordedTable(asked.table)
    reference, features = table.reference(asked.target), table.described(asked.features, asked.target, None)
    ids = np.load(asked.table, allow_pickle=False)["id"]
    count = config.selection.size(len(ids))
    streams = Streams.of(config.seed)
    k = resolve_k(config.clusters, len(ids), asked.budget)
    labels_N = fit(features.matrix_NF, k, config.clusters, streams.clusters, features.usable_N).labels_N
    search = Search(labels_N, config.search, count / len(ids), streams.search, features.known)
    drawn = drive(search, reference.rewards_N)
    asked.out.mkdir(parents=True, exist_ok=True)
    best = {
        "selected": drawn[np.argsort(-reference.rewards_N[drawn], kind="stable")][:count],
        "exhaustive": np.argsort(-reference.rewards_N, kind="stable")[:count],
    }
    for name, samples in best.items():
        (asked.out / f"{name}.txt").write_text("".join(f"{ids[sample]}\n" for sample in samples))
    shared = np.isin(best["selected"], best["exhaustive"]).mean()
    print(
        f"{asked.target}: {len(ids)} samples, {len(drawn)} scored ({len(drawn) / len(ids):.1%}) by "
        f"{config.search.allocator.kind} over {k} clusters of {asked.features}; {count} selected, {shared:.0%} of them "
        f"in the exhaustive {count}"
    )


if __name__ == "__main__":
    main()
