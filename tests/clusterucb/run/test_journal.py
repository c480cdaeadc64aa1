"""A journal gives back what was appended, loses at most a torn tail, and refuses damage in the middle."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterucb.errors import RunFolderError
from clusterucb.run.journal import Journal, Record, read_records


def record(i: int) -> Record:
    return Record({"number": str(i)}, {"values": np.arange(i, dtype=np.float32), "ids": np.array([i], dtype=np.int64)})


def write(path: Path, count: int) -> None:
    with Journal(path) as journal:
        for i in range(count):
            journal.append(record(i))


def numbers(path: Path) -> list[int]:
    return [int(found.fields["number"]) for found in read_records(path)]


def test_records_come_back_in_order(tmp_path: Path):
    path = tmp_path / "a.journal"
    write(path, 3)
    found = list(read_records(path))
    assert [r.fields["number"] for r in found] == ["0", "1", "2"]
    np.testing.assert_array_equal(found[2].arrays["values"], [0, 1])


@given(cut=st.integers(min_value=0, max_value=2000))
def test_a_torn_tail_loses_only_what_was_torn(tmp_path_factory: pytest.TempPathFactory, cut: int):
    path = tmp_path_factory.mktemp("journal") / "a.journal"
    write(path, 4)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))])
    before = numbers(path)
    assert before == list(range(len(before)))
    with Journal(path) as journal:
        assert journal.num_records == len(before)
        journal.append(record(99))
    assert numbers(path) == [*before, 99]


def test_damage_in_the_middle_is_refused_with_the_way_out(tmp_path: Path):
    path = tmp_path / "a.journal"
    write(path, 3)
    data = bytearray(path.read_bytes())
    data[40] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(RunFolderError, match="damaged at byte"):
        Journal(path)


def test_another_file_is_refused(tmp_path: Path):
    path = tmp_path / "a.journal"
    path.write_text("this is a text file, not a journal")
    with pytest.raises(RunFolderError, match="not a journal"):
        Journal(path)
