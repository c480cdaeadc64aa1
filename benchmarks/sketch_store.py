"""Which format keeps sketches best: writing as they come, opening, finding samples, gathering rows at random.

    python benchmarks/sketch_store.py --rows 100000 --gather 10000 --dim 4096

The store of this project (a matrix for numpy, an Arrow stream of checksums) against Parquet files, Arrow files that are
mapped, and a Lance dataset (where `pylance` is installed; it is no dependency of the project). All write the same rows
in groups, each on the disk before the next, as a run does; a format that cannot grow writes a file a group. Printed:
each measure, and in brackets how many times ours it is. Gathers are warm: files are in the page cache, so that formats
are compared and not the disk. Ours alone checks every row that it reads.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clusterucb.config import HashSketch, Plain
from clusterucb.store.keys import Described, SketchKey
from clusterucb.store.shards import FINGERPRINT, Fingerprints, Rows
from clusterucb.store.store import StoreReader, StoreWriter

REPEATS = 3


class Format(Protocol):
    """One way of keeping rows in a folder."""

    name: str

    def write(self, folder: Path, groups: Iterator[Rows]) -> None: ...

    def gather(self, folder: Path, names: Fingerprints) -> tuple[float, np.ndarray]:
        """Open, find and read; return the seconds that opening and finding took, and the sketches."""
        ...


class Ours:
    name = "npy shards + Arrow index"

    def __init__(self, dim: int) -> None:
        key = SketchKey(
            base="",
            adapter="",
            moments="",
            dtype="auto",
            attention="sdpa",
            modules="lora",
            precondition=Plain(),
            sketch=HashSketch(dim=dim),
            device="cpu",
            libraries=(),
        )
        self._described = Described(key=key, base="", adapter=None, moments=None)

    def write(self, folder: Path, groups: Iterator[Rows]) -> None:
        with StoreWriter(folder, self._described) as writer:
            for rows in groups:
                writer.append(rows)

    def gather(self, folder: Path, names: Fingerprints) -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        with StoreReader(folder, self._described) as reader:
            found = reader.find(names)
            opened = time.perf_counter() - start
            rows, sound = reader.read(found)
        assert sound.all()
        return opened, rows.sketch_RD


class Parquet:
    name = "Parquet, a file a group"

    def write(self, folder: Path, groups: Iterator[Rows]) -> None:
        folder.mkdir()
        for i, rows in enumerate(groups):
            path = folder / f"{i:06d}.parquet"
            pq.write_table(table_of(rows), path, compression="none", use_dictionary=False)
            synced(path)

    def gather(self, folder: Path, names: Fingerprints) -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        known = pq.read_table(folder, columns=["fingerprint"])["fingerprint"]
        at = positions(known, names)
        opened = time.perf_counter() - start
        return opened, matrix_of(pq.read_table(folder, columns=["sketch"], memory_map=True)["sketch"].take(at))


class ArrowFile:
    name = "Arrow files, mapped, a file a group"

    def write(self, folder: Path, groups: Iterator[Rows]) -> None:
        folder.mkdir()
        for i, rows in enumerate(groups):
            path = folder / f"{i:06d}.arrow"
            table = table_of(rows)
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            synced(path)

    def gather(self, folder: Path, names: Fingerprints) -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        maps = [pa.memory_map(str(path)) for path in sorted(folder.iterdir())]
        table = pa.concat_tables([pa.ipc.open_file(each).read_all() for each in maps])
        at = positions(table["fingerprint"], names)
        opened = time.perf_counter() - start
        return opened, matrix_of(table["sketch"].take(at))


class Lance:
    name = "Lance dataset"

    def write(self, folder: Path, groups: Iterator[Rows]) -> None:
        import lance

        for i, rows in enumerate(groups):
            lance.write_dataset(table_of(rows), str(folder), mode="append" if i else "create")

    def gather(self, folder: Path, names: Fingerprints) -> tuple[float, np.ndarray]:
        import lance

        start = time.perf_counter()
        dataset = lance.dataset(str(folder))
        at = positions(dataset.to_table(columns=["fingerprint"])["fingerprint"], names)
        opened = time.perf_counter() - start
        return opened, matrix_of(dataset.take(at.to_pylist(), columns=["sketch"])["sketch"])


def table_of(rows: Rows) -> pa.Table:
    dim = rows.sketch_RD.shape[1]
    sketches = pa.FixedSizeListArray.from_arrays(pa.array(rows.sketch_RD.ravel()), dim)
    names = pa.array([each.tobytes() for each in rows.fingerprint_R], pa.binary(16))
    return pa.table({"fingerprint": names, "squared_norm": rows.squared_norm_R, "sketch": sketches})


def matrix_of(column: pa.ChunkedArray) -> np.ndarray:
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(parts).reshape(len(column), -1)


def positions(known: pa.ChunkedArray, names: Fingerprints) -> pa.Array:
    wanted = pa.array([each.tobytes() for each in names], pa.binary(16))
    return pc.index_in(wanted, value_set=known.combine_chunks())


def synced(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def groups_of(count: int, size: int, dim: int) -> Iterator[Rows]:
    block = np.random.default_rng(0).normal(size=(size, dim)).astype(np.float16)
    for start in range(0, count, size):
        part = slice(0, min(size, count - start))
        numbers = np.arange(start, start + len(block[part]))
        yield Rows(names_of(numbers), block[part], numbers.astype("f4"), numbers.astype("f4"), numbers.astype("i4"))


def names_of(numbers: np.ndarray) -> Fingerprints:
    words = np.stack([numbers.astype("<u8") * np.uint64(0x9E3779B97F4A7C15), numbers.astype("<u8")], axis=1)
    return np.ascontiguousarray(words).view(FINGERPRINT)[:, 0]


def median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(REPEATS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--gather", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--group", type=int, default=256, help="rows that are written together")
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    formats: list[Format] = [Ours(asked.dim), ArrowFile(), Parquet()]
    try:
        import lance  # noqa: F401

        formats.append(Lance())
    except ImportError:
        print("pylance is not installed: Lance is left out")
    root = Path(tempfile.mkdtemp(dir=asked.folder))
    rng = np.random.default_rng(1)
    wanted = names_of(rng.choice(asked.rows, min(asked.gather, asked.rows), replace=False))
    found: list[tuple[str, dict[str, float]]] = []
    expected: Any = None
    print(f"{asked.rows} rows of {asked.dim}, in groups of {asked.group}; {len(wanted)} gathered at random")
    try:
        for each in formats:
            folder = root / type(each).__name__
            start = time.perf_counter()
            each.write(folder, groups_of(asked.rows, asked.group, asked.dim))
            wrote = time.perf_counter() - start
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            opens: list[float] = []

            def gathered(each: Format = each, folder: Path = folder, opens: list[float] = opens) -> float:
                nonlocal expected
                start = time.perf_counter()
                opened, sketches = each.gather(folder, wanted)
                took = time.perf_counter() - start
                opens.append(opened)
                expected = sketches if expected is None else expected
                assert np.array_equal(sketches, expected), f"{each.name} reads other rows"
                return took - opened

            took = median(gathered)
            measures = {
                "write MB/s": asked.rows * asked.dim * 2 / 1e6 / wrote,
                "open+find ms": 1e3 * statistics.median(opens),
                "gather ms": 1e3 * took,
                "bytes a row": size / asked.rows,
            }
            found.append((each.name, measures))
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    ours = found[0][1]
    print(f"{'':38}" + "".join(f"{name:>22}" for name in ours))
    for name, measures in found:
        cells = [f"{value:.0f} ({value / ours[key]:.2f}x)" for key, value in measures.items()]
        print(f"{name:38}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
