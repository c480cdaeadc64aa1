"""A run in an object store: its files are what was written, and nothing that two writers mixed."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterucb.config import RunConfig
from clusterucb.errors import RunFolderError
from clusterucb.run.events import Cancelled, EventLog, Note, Started
from clusterucb.run.journal import Journal, Record
from clusterucb.run.lease import Lease
from clusterucb.run.remote import Remote
from clusterucb.run.run_folder import RunFolder
from clusterucb.settings import build_config
from ray_app.status import follow, read_status, request_cancel
from ray_app.views import LineView

NAME = "state/scores.journal"


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path.name}/run" if request.param == "memory" else f"file://{tmp_path}/store/run"


def on_machine(number: int, url: str, place: Path) -> RunFolder:
    copy = place / f"machine {number}" / "run"
    return RunFolder(copy, Remote(url, copy))


def config(*overrides: str) -> RunConfig:
    tree = {"pool": {"path": "p"}, "target": {"path": "t"}, "model": {"base": "m"}}
    return build_config(tree, overrides)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.binary(min_size=1, max_size=9)),
        st.tuples(st.just("seal"), st.just(b"")),
        st.tuples(st.just("move"), st.just(b"")),
    ),
    max_size=12,
)


@pytest.mark.parametrize("protocol", ["memory", "file"])
@settings(max_examples=15, deadline=None)
@given(steps=STEPS)
def test_a_growing_file_is_what_was_appended_wherever_it_is_opened(
    tmp_path_factory: pytest.TempPathFactory, protocol: str, steps: list[tuple[str, bytes]]
):
    place = tmp_path_factory.mktemp("growing")
    url = f"{protocol}://{place}/store/run"
    machine, written = 0, b""
    folder = on_machine(machine, url, place)
    for step, data in steps:
        path = folder.path / NAME
        if step == "append":
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)
            folder.replica.append(path, len(written), data)
            written += data
        elif step == "seal" and written:
            folder.replica.seal(path)
        elif step == "move":
            machine += 1
            folder = on_machine(machine, url, place)
            folder.take_over()
            assert not written or (folder.path / NAME).read_bytes() == written
    assert folder.remote is not None
    assert folder.remote.read_grown(NAME, 0) == written
    assert folder.remote.read_grown(NAME, len(written) + 5) == b""


def record(number: int) -> Record:
    return Record({"number": str(number)}, {})


def test_a_torn_last_piece_is_cut_off_and_a_damaged_middle_refused(url: str, tmp_path: Path):
    folder = on_machine(0, url, tmp_path)
    with Journal(folder.path / NAME, folder.replica) as journal:
        for number in range(3):
            journal.append(record(number))
    assert folder.remote is not None
    last = sorted(folder.remote.names(NAME + ".parts"))[-1]
    whole = folder.remote.read(f"{NAME}.parts/{last}")
    assert whole is not None
    folder.remote.write(f"{NAME}.parts/{last}", whole[:-3])
    second = on_machine(1, url, tmp_path)
    second.check_journals()
    second.take_over()
    with Journal(second.path / NAME, second.replica) as journal:
        assert journal.num_records == 2
        journal.append(record(9))
    third = on_machine(2, url, tmp_path)
    third.take_over()
    with Journal(third.path / NAME, third.replica) as journal:
        assert [found.fields["number"] for found in journal.records()] == ["0", "1", "9"]
    middle = sorted(folder.remote.names(NAME + ".parts"))[1]
    folder.remote.delete([f"{NAME}.parts/{middle}"])
    with pytest.raises(RunFolderError, match="damaged at byte"):
        on_machine(3, url, tmp_path).check_journals()


def test_two_writers_cannot_mix(url: str, tmp_path: Path):
    first, second = on_machine(0, url, tmp_path), on_machine(1, url, tmp_path)
    with Journal(first.path / NAME, first.replica) as stalled:
        stalled.append(record(0))
        second.take_over()
        with Journal(second.path / NAME, second.replica) as journal:
            journal.append(record(1))
            with pytest.raises(RunFolderError, match=r"another process writes this run.*clusterucb watch"):
                stalled.append(record(2))
            journal.append(record(3))
            assert [found.fields["number"] for found in journal.records()] == ["0", "1", "3"]


def test_what_the_store_holds_wins_over_the_working_copy(url: str, tmp_path: Path):
    folder = on_machine(0, url, tmp_path)
    folder.start(config())
    kept, changed, lost = (folder.state / name for name in ("target.safetensors", "clusters.npz", "features.npy"))
    for path in (kept, changed, lost):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"here")
        if path != lost:
            folder.replica.put(path)
    assert folder.remote is not None
    folder.remote.write("state/clusters.npz", b"there")
    before = kept.stat().st_mtime_ns
    folder.take_over()
    assert changed.read_bytes() == b"there"
    assert not lost.exists()
    assert kept.stat().st_mtime_ns == before, "what is the same is not brought again"


def test_a_run_is_claimed_read_and_removed_at_a_url(url: str, tmp_path: Path):
    folder = on_machine(0, url, tmp_path)
    assert folder.start(config()) is False
    other = on_machine(1, url, tmp_path)
    assert other.start(config("workers.count=7")) is True
    with pytest.raises(RunFolderError, match=r"run holds a run with other settings: search\.budget"):
        other.start(config("search.budget=0.3"))
    assert other.read_config() == config()
    assert folder.remote is not None
    folder.remote.clear()
    assert not other.exists
    folder.remote.write("thesis.txt", b"mine")
    with pytest.raises(RunFolderError, match="is not empty and holds no run"):
        other.start(config())


def test_the_lease_excludes_other_machines(url: str, tmp_path: Path):
    first, second = on_machine(0, url, tmp_path), on_machine(1, url, tmp_path)
    lease = Lease.acquire(first, "first", 30.0)
    with pytest.raises(RunFolderError, match="in use by first"):
        Lease.acquire(second, "second", 30.0, sleep=lambda seconds: lease.renew())
    lease.release()
    taken = Lease.acquire(second, "second", 30.0)
    with pytest.raises(RunFolderError, match="taken over by second"):
        lease.renew()
    taken.renew()


def test_status_watch_and_cancel_need_only_the_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    url = f"file://{tmp_path}/store/run"
    folder = on_machine(0, url, tmp_path)
    folder.start(config())
    folder.state.mkdir()
    monkeypatch.setenv("CLUSTERUCB_SCRATCH", str(tmp_path / "another machine"))
    assert read_status(url).state == "prepared"
    events = EventLog(folder.events_file, lambda: 1000.0, folder.replica)
    events(Started(run="run", resumed=False, workers=3))
    assert (read_status(url).state, read_status(url).workers) == ("running", 3)
    assert not folder.cancel_requested
    request_cancel(url)
    assert folder.cancel_requested
    folder.clear_cancel()
    assert not folder.cancel_requested
    events(Cancelled())
    events.close()
    lines: list[str] = []
    follow(url, LineView(lines.append))
    assert len(lines) == 2
    assert read_status(url).state == "cancelled"


def test_events_go_on_after_a_crash_in_the_middle_of_a_line(url: str, tmp_path: Path):
    folder = on_machine(0, url, tmp_path)
    folder.path.mkdir(parents=True)
    events = EventLog(folder.events_file, lambda: 1000.0, folder.replica)
    events(Note(text="one"))
    events.flush()
    with folder.events_file.open("a") as file:
        file.write('{"event":"no')
    again = EventLog(folder.events_file, lambda: 2000.0, folder.replica)
    again(Note(text="two"))
    again.close()
    assert folder.read_events(0) == folder.events_file.read_bytes()
    assert folder.events_file.read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("location", "words"),
    [("gs://bucket/run", "gcsfs.*install it"), ("nowhere://bucket/run", "begins with nowhere://, which fsspec")],
)
def test_a_url_that_nothing_reads_is_refused_by_name(location: str, words: str):
    with pytest.raises(RunFolderError, match=words):
        RunFolder.open(location)


def test_a_store_that_refuses_is_named_with_the_way_out(tmp_path: Path):
    (tmp_path / "store").write_text("a file where a folder should be")
    folder = on_machine(0, f"file://{tmp_path}/store/run", tmp_path)
    with pytest.raises(RunFolderError, match=r"store/run/config.json cannot be reached .*clusterucb resume"):
        folder.start(config())
