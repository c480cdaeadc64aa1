"""A disk that takes no more is named with file, reason and way out, and leaves whole files behind."""

import json
import logging
import os
from pathlib import Path

import pytest
from full_disks import files_up_to

from clusterucb.errors import RunFolderError
from clusterucb.run.disk import write_all, write_atomically, writing
from clusterucb.run.events import EventLog, Note, parse_event
from clusterucb.run.journal import Journal, Record


def test_a_full_device_is_named_with_reason_and_way_out():
    full, words = Path("/dev/full"), r"/dev/full cannot be written: No space left on device.*free space"
    with pytest.raises(RunFolderError, match=words), writing(full), full.open("wb", buffering=0) as file:
        write_all(file.fileno(), b"anything")


def test_a_file_that_is_not_replaced_stays_what_it_was(tmp_path: Path):
    path = tmp_path / "a.json"
    write_atomically(path, "old")
    with files_up_to(10), pytest.raises(RunFolderError, match=r"a\.json cannot be written: File too large.*resume"):
        write_atomically(path, "new" * 10)
    assert path.read_text() == "old"


def test_a_mistake_of_somebody_elses_file_is_not_blamed_on_the_run(tmp_path: Path):
    with pytest.raises(FileNotFoundError), writing(tmp_path / "run" / "state"):
        (tmp_path / "pool.jsonl").open()


def test_a_journal_on_a_full_disk_keeps_what_was_told_and_goes_on(tmp_path: Path):
    path = tmp_path / "state" / "scores.journal"
    journal = Journal(path)
    journal.append(Record({"number": "0"}, {}))
    with files_up_to(os.path.getsize(path) + 20), pytest.raises(RunFolderError, match=r"scores\.journal cannot be"):
        journal.append(Record({"number": "1"}, {}))
    journal.close()
    with Journal(path) as again:
        assert again.num_records == 1
        again.append(Record({"number": "2"}, {}))
        assert [record.fields["number"] for record in again.records()] == ["0", "2"]


def test_events_that_find_no_room_are_logged_and_hide_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "events.jsonl"
    events = EventLog(path, lambda: 1.0)
    events(Note(text="one"))
    with files_up_to(path.stat().st_size + 10), caplog.at_level(logging.WARNING):
        events(Note(text="two"))
    assert "File too large" in caplog.text
    events(Note(text="three"))
    events.close()
    texts = [getattr(parse_event(line), "text", "") for line in path.read_text().splitlines()]
    assert texts == ["one", "three"]
    assert [json.loads(line)["text"] for line in events.lines] == ["one", "two", "three"]
