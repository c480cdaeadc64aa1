"""What is written is read back: whoever wrote beside, wherever a crash cut a file, whatever was evicted meanwhile."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import DIM, assert_same, described, names_of, rows_of

from clusterucb.store.shards import Shard, ShardWriter, matrix_path, remove_shard, shard_paths
from clusterucb.store.store import StoreReader, StoreWriter, key_folder
from clusterucb.store.upkeep import evict, holdings, shard_files, verify

SMALL = 2000
"""Bytes of a shard: about a dozen rows."""


def read_back(store: Path, names: list[int]) -> list[int]:
    """Return which of the names are there, having checked that what is there is what was written."""
    with StoreReader(store, described()) as reader:
        found = reader.find(names_of(names))
        there = [name for name, row in zip(names, found, strict=True) if row >= 0]
        if there:
            rows, sound = reader.read(found[found >= 0])
            assert sound.all()
            assert_same(rows, rows_of(there))
        return there


@settings(max_examples=12, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.booleans()), max_size=16),
    shard_bytes=st.sampled_from([SMALL, 1 << 20]),
)
def test_every_interleaving_of_writers_reads_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, bool]], shard_bytes: int
):
    store = tmp_path_factory.mktemp("store")
    writers = [StoreWriter(store, described(), shard_bytes) for _ in range(3)]
    written: list[int] = []
    for writer, count, close in steps:
        names = list(range(len(written), len(written) + count))
        if count:
            writers[writer].append(rows_of(names))
        written += names
        if close:
            writers[writer].close()
    assert read_back(store, [*written, 10_000]) == written
    for writer in writers:
        writer.close()
    assert read_back(store, written) == written
    assert sum(verdict.rows for verdict in verify(store)) == len(written)
    assert not any(verdict.damaged or verdict.torn_bytes for verdict in verify(store))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), groups=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_torn_end_costs_what_it_tore_and_the_next_writer_goes_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, groups: list[int]
):
    store = tmp_path_factory.mktemp("store")
    starts = np.cumsum([0, *groups])
    ends = []
    with StoreWriter(store, described()) as writer:
        for start, count in zip(starts, groups, strict=False):
            writer.append(rows_of(list(range(start, start + count))))
            ends.append(shard_paths(key_folder(store, described()))[0].stat().st_size)
    index = shard_paths(key_folder(store, described()))[0]
    cut = data.draw(st.integers(0, ends[-1]), label="bytes of the index that reached the disk")
    junk = data.draw(st.binary(max_size=40), label="what stands behind them")
    index.write_bytes(index.read_bytes()[:cut] + junk)
    with matrix_path(index).open("ab") as file:
        file.write(data.draw(st.binary(max_size=300), label="a sketch that was being written"))
    whole = [count for end, count in zip(ends, groups, strict=True) if end <= cut]
    everything = list(range(int(starts[-1])))
    kept = read_back(store, everything)
    if not junk or cut == ends[-1]:  # bytes that happen to go on where the cut was lose nothing
        assert kept == everything[: sum(whole)]
    with StoreWriter(store, described()) as writer:
        writer.append(rows_of([500, 501]))
    assert read_back(store, [*everything, 500, 501]) == [*kept, 500, 501]
    assert [verdict.torn_bytes for verdict in verify(store)] == [0]
    assert len(np.load(matrix_path(index), mmap_mode="r")) == len(kept) + 2


def test_a_row_that_changed_on_the_disk_is_not_there(tmp_path: Path):
    with StoreWriter(tmp_path, described()) as writer:
        writer.append(rows_of([0, 1, 2]))
    matrix = matrix_path(shard_paths(key_folder(tmp_path, described()))[0])
    raw = bytearray(matrix.read_bytes())
    raw[128 + DIM * 2 + 5] ^= 1
    matrix.write_bytes(raw)
    with StoreReader(tmp_path, described()) as reader:
        _, sound = reader.read(reader.find(names_of([2, 1, 0])))
    assert sound.tolist() == [True, False, True]
    assert [verdict.damaged for verdict in verify(tmp_path)] == [1]


def test_of_equal_samples_the_first_counts_and_other_keys_are_apart(tmp_path: Path):
    for version in (0, 1):
        with StoreWriter(tmp_path, described()) as writer:
            writer.append(rows_of([1, 2], version))
    assert read_back(tmp_path, [1, 2]) == [1, 2]
    with StoreReader(tmp_path, described("other")) as reader:
        assert reader.find(names_of([1])).tolist() == [-1]


def test_numpy_and_arrow_open_a_shard(tmp_path: Path):
    with StoreWriter(tmp_path, described()) as writer:
        for names in ([4, 5], [6]):
            writer.append(rows_of(names))
        index = shard_paths(key_folder(tmp_path, described()))[0]
        np.testing.assert_array_equal(np.load(matrix_path(index), mmap_mode="r"), rows_of([4, 5, 6]).sketch_RD)
        table = pa.ipc.open_stream(index.read_bytes()).read_all()
    assert table["fingerprint"].to_pylist() == [name.tobytes() for name in names_of([4, 5, 6])]
    assert table["num_tokens"].to_pylist() == [4, 5, 6]


def test_eviction_takes_the_least_recently_used_and_nothing_that_is_open(tmp_path: Path):
    with StoreWriter(tmp_path, described(), SMALL) as writer:
        for start in range(0, 80, 16):
            writer.append(rows_of(list(range(start, start + 16))))
    import os

    for age, shard in enumerate(shard_files(tmp_path)):
        os.utime(shard.path, (age, int(shard.path.stem)))
    with StoreReader(tmp_path, described()) as reader:
        assert evict(tmp_path, 0) == []
        reader.read(reader.find(names_of([0])))  # the oldest has been of use now
    size = shard_files(tmp_path)[0].num_bytes
    gone = evict(tmp_path, 3 * size)
    assert [shard.path.stem for shard in gone] == ["000001", "000002"]
    assert read_back(tmp_path, list(range(80))) == [*range(16), *range(48, 80)]
    assert [holding.rows for holding in holdings(tmp_path)] == [48]
    evict(tmp_path, 0)
    assert read_back(tmp_path, list(range(80))) == []


def test_a_shard_that_another_process_reads_stays(tmp_path: Path):
    with StoreWriter(tmp_path, described()) as writer:
        writer.append(rows_of([0]))
    index = shard_paths(key_folder(tmp_path, described()))[0]
    code = (
        "import sys; from pathlib import Path; from clusterucb.store.shards import Shard\n"
        f"with Shard.open(Path(sys.argv[1]), {DIM}):\n"
        "    print('open', flush=True); sys.stdin.read()"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(index)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "open\n"
    assert not remove_shard(index)
    assert ShardWriter.adopt(index, DIM) is not None
    reader.communicate()
    assert remove_shard(index)
    assert Shard.open(index, DIM) is None
    assert not matrix_path(index).exists()
