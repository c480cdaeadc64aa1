"""Spherical k-means against the physical limit, faiss and scikit-learn: time, peak memory, objective.

    python benchmarks/clustering.py                        # 16,384 x 1,024, 128 clusters: about half a minute
    python benchmarks/clustering.py --rows 65536 --clusters 512

The limit is what the matrix product of one pass (rows x clusters x features) costs, measured on blocks that are already
float32 and in memory. Every method runs in a process of its own, on one thread by default, from the same half-precision
memory map; times are CPU seconds of that process, which a busy machine changes little. The last line extrapolates to a
million rows from the measured start and passes.
"""

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

METHODS = ("limit", "clusterucb", "faiss", "sklearn")
MILLION = {"rows": 1_000_000, "features": 1024, "clusters": 1000}


def make_features(path: Path, rows: int, features: int, clusters: int) -> None:
    """Write overlapping groups, a few of them to every cluster, as a float16 `.npy` file."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3 * clusters, features), dtype=np.float32)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, features))
    for start in range(0, rows, 4096):
        count = min(4096, rows - start)
        block = centres[rng.integers(len(centres), size=count)] + rng.standard_normal(
            (count, features), dtype=np.float32
        )
        out[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    out.flush()


def measure(method: str, path: Path, clusters: int, iterations: int, threads: int) -> dict[str, float]:
    """Run one method; return seconds and what it found."""
    import torch

    torch.set_num_threads(threads)
    mapped = np.load(path, mmap_mode="r")
    rows, features = mapped.shape
    if method == "limit":
        block, centroids = torch.randn(4096, features), torch.randn(clusters, features)
        block @ centroids.T
        start = time.process_time()
        for _ in range(max(1, rows // 4096)):
            block @ centroids.T
        return {"pass_s": (time.process_time() - start) * rows / (max(1, rows // 4096) * 4096)}

    if method == "clusterucb":
        from clusterucb import config
        from clusterucb.features import clustering

        settings = config.Clusters(iterations=iterations, tolerance=0, train_sample=rows)
        stamps: list[tuple[str, float]] = []
        start = time.process_time()
        found = clustering.fit(
            mapped,
            clusters,
            settings,
            np.random.default_rng(0),
            progress=lambda step: stamps.append((step.stage, time.process_time() - start)),
        )
        total, labels = time.process_time() - start, found.labels_N
        passes = [at for stage, at in stamps if stage == "iterate"]
        extra = {
            "start_s": stamps[0][1],
            "iterations": len(passes),
            "pass_s": (passes[-1] - stamps[0][1]) / len(passes),
            "assign_s": total - passes[-1],
        }
    elif method == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)
        start = time.process_time()
        x = np.asarray(mapped, dtype=np.float32)
        kmeans = faiss.Kmeans(
            features, clusters, niter=iterations, spherical=True, seed=1, max_points_per_centroid=rows, verbose=False
        )
        kmeans.train(x)
        labels = kmeans.index.search(x, 1)[1][:, 0]
        total, extra = time.process_time() - start, {"iterations": len(kmeans.iteration_stats)}
    else:
        from sklearn.cluster import KMeans

        start = time.process_time()
        kmeans = KMeans(clusters, n_init=1, max_iter=iterations, tol=0, random_state=0, algorithm="lloyd")
        labels = kmeans.fit_predict(np.asarray(mapped, dtype=np.float32))
        total, extra = time.process_time() - start, {"iterations": kmeans.n_iter_}

    sums = np.zeros((clusters, features))
    for at in range(0, rows, 4096):
        np.add.at(sums, labels[at : at + 4096], mapped[at : at + 4096].astype(np.float32))
    return {
        "total_s": total,
        "mean_cosine": float(np.linalg.norm(sums, axis=1).sum() / rows),
        "empty": clusters - len(np.unique(labels)),
        **extra,
    }


def run(method: str, path: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one method in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--method", method, "--file", str(path)]
    command += [f"--{name}={getattr(arguments, name)}" for name in ("clusters", "iterations", "threads")]
    env = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "OPENBLAS_NUM_THREADS": str(arguments.threads)}
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Parse, measure every method that is installed and print a table."""
    parser = argparse.ArgumentParser(description="Measure spherical k-means.")
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--clusters", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.method:
        found = measure(arguments.method, arguments.file, arguments.clusters, arguments.iterations, arguments.threads)
        print(json.dumps({**found, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
        return

    shape = f"{arguments.rows:,} x {arguments.features:,}, {arguments.clusters} clusters, {arguments.threads} thread(s)"
    print(f"{shape}; at most {arguments.iterations} iterations")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "features.npy")
        make_features(path, arguments.rows, arguments.features, arguments.clusters)
        results = {
            method: run(method, path, arguments)
            for method in METHODS
            if method in ("limit", "clusterucb") or importlib.util.find_spec(method)
        }
    limit, ours = results["limit"]["pass_s"], results["clusterucb"]
    print(f"limit       {limit:8.3f} s a pass")
    for method, found in results.items():
        if method != "limit":
            each = found["total_s"] / (found["iterations"] + 1)
            print(
                f"{method:11s} {found['total_s']:8.2f} s in all, {each / limit:5.2f} x the limit a pass, "
                f"{found['iterations']:.0f} iterations, mean cosine {found['mean_cosine']:.4f}, "
                f"{found['empty']:.0f} empty, peak {found['peak_mib']:,.0f} MiB"
            )
    print(f"clusterucb: start {ours['start_s']:.2f} s, one iteration {ours['pass_s'] / limit:.2f} x the limit")

    # Of a pass the product grows with rows x clusters x features, the rest with rows x features; the start with the
    # square of clusters, because its sample grows with them.
    element = limit / (arguments.rows * arguments.features)
    element = element * MILLION["clusters"] / arguments.clusters + (ours["pass_s"] - limit) / limit * element
    sample = 256 * MILLION["clusters"]
    iterate = 50 * element * sample * MILLION["features"]
    full = 2 * element * MILLION["rows"] * MILLION["features"]
    start = ours["start_s"] * (MILLION["clusters"] / arguments.clusters) ** 2 * MILLION["features"] / arguments.features
    shape = f"{MILLION['rows']:,} x {MILLION['features']:,}, {MILLION['clusters']:,} clusters"
    print(
        f"extrapolated to {shape}: start {start:.0f} s"
        f" + 50 iterations on {sample:,} rows {iterate:.0f} s + two passes over everything {full:.0f} s"
        f" = {(start + iterate + full) / 60:.1f} minutes at most"
    )


if __name__ == "__main__":
    main()
