"""A run has one writer at a time, whatever the order of steps; a dead one is followed at once, a living one refused."""

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interleaving import Stage

from clusterucb.errors import RunFolderError
from clusterucb.run.lease import Holder, Lease, contend
from clusterucb.run.lease_slots import LocalSlots, Slots
from clusterucb.run.processes import Process
from clusterucb.run.run_folder import RunFolder

TTL = 10.0


class MemorySlots:
    """Slots in a dictionary; others get a turn before and after every step, as on a slow store."""

    location = "store://run"

    def __init__(self, records: dict[int, bytes], step: Callable[[], None]) -> None:
        self._records = records
        self._step = step

    def latest(self) -> tuple[int, bytes] | None:
        self._step()
        found = max(self._records.items(), default=None)
        self._step()
        return found

    def create(self, number: int, data: bytes) -> bool:
        self._step()
        created = self._records.setdefault(number, data) is data
        self._step()
        return created

    def write(self, number: int, data: bytes) -> None:
        self._step()
        self._records[number] = data
        self._step()

    def drop_before(self, number: int) -> None:
        self._step()
        for lower in [n for n in self._records if n < number]:
            del self._records[lower]
        self._step()


def elsewhere(name: str, boot: str = "") -> Holder:
    return Holder(name, Process(name, 1, boot, "", ""), "then")


@settings(max_examples=60, deadline=None)
@given(chance=st.randoms(use_true_random=False), slowness=st.sampled_from([0.05, 0.2, 0.5]))
def test_no_two_hold_the_lease_at_a_time(chance: random.Random, slowness: float):
    """Any step of three contenders may be late by any time, up to more than the lifetime of the lease."""

    def delay() -> float:
        return chance.choice([0.1, 1.0, TTL / 2, TTL, 1.5 * TTL]) if chance.random() < slowness else 0.0

    stage = Stage(chance.randrange)
    records: dict[int, bytes] = {}
    leases: dict[str, Lease] = {}

    def program(name: str) -> None:
        slots = MemorySlots(records, lambda: stage.step(delay()))
        for _ in range(2):
            try:
                lease = leases[name] = contend(slots, elsewhere(name), TTL, stage.clock, stage.sleep)
                for _ in range(3):
                    stage.sleep(TTL / 3)
                    lease.renew()
                lease.release()
            except RunFolderError:
                continue

    def watch() -> None:
        now = {name for name, lease in leases.items() if lease.held}
        assert len(now) <= 1, f"at {stage.now} {now} hold the lease"

    stage.watch = watch
    for name in ("a", "b", "c"):
        stage.add(lambda name=name: program(name))
    stage.play(4000)
    assert leases, "somebody gets it"


def slots_in(folder: Path) -> Slots:
    return LocalSlots(folder, str(folder))


class Time:
    """A clock that sleeping moves; `during` happens in every sleep."""

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self.now = 0.0
        self._during = during

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._during()


def test_a_holder_that_renews_is_named_and_left_alone(tmp_path: Path):
    time = Time()
    lease = contend(slots_in(tmp_path), elsewhere("first"), TTL, time.clock, time.sleep)
    other = Time(during=lease.renew)
    with pytest.raises(RunFolderError, match=r"by first \(host first, process 1, since then\).*clusterucb cancel"):
        contend(slots_in(tmp_path), elsewhere("second"), TTL, other.clock, other.sleep)
    assert lease.held


def test_a_renewal_that_came_too_late_is_settled_by_who_creates_the_next_number_first(tmp_path: Path):
    readings = iter([0.0, 0.0, TTL - 0.1, *[TTL + 0.1] * 9])  # a stall in the middle of the renewal
    late = contend(slots_in(tmp_path), elsewhere("late"), TTL, lambda: next(readings), lambda seconds: None)
    slots, time = slots_in(tmp_path), Time()
    create = slots.create

    def create_after_the_renewal(number: int, data: bytes) -> bool:
        slots.create = create
        late.renew()
        return create(number, data)

    slots.create = create_after_the_renewal
    with pytest.raises(RunFolderError, match="in use by late"):
        contend(slots, elsewhere("second"), TTL, time.clock, time.sleep)


def test_a_silent_holder_is_followed_after_its_time_and_stops_when_it_wakes(tmp_path: Path):
    time, other = Time(), Time()
    lease = contend(slots_in(tmp_path), elsewhere("first"), TTL, time.clock, time.sleep)
    second = contend(slots_in(tmp_path), elsewhere("second"), TTL, other.clock, other.sleep)
    assert other.now >= TTL
    time.now = 2 * TTL
    assert not lease.held
    with pytest.raises(RunFolderError, match="taken over by second"):
        lease.renew()
    second.renew()


def test_a_late_holder_goes_on_where_nobody_came(tmp_path: Path):
    time = Time()
    lease = contend(slots_in(tmp_path), elsewhere("first"), TTL, time.clock, time.sleep)
    time.now = 5 * TTL
    assert not lease.held
    lease.renew()
    assert lease.held


@pytest.mark.parametrize("leave", ["release", "crash", "half a record"])
def test_no_time_is_lost_over_a_holder_that_is_gone_or_was_never_there(tmp_path: Path, leave: str):
    folder = RunFolder(tmp_path)
    time = Time()
    if leave == "release":
        Lease.acquire(folder, "first", TTL, time.clock, time.sleep).release()
    elif leave == "crash":
        code = f"from clusterucb.run.lease import *; Lease.acquire(RunFolder.open({str(tmp_path)!r}), 'first', 10.0)"
        subprocess.run([sys.executable, "-c", code], check=True)
    else:
        slots_in(folder.state / "lease").create(1, b'{"owner":')
    Lease.acquire(folder, "second", TTL, time.clock, time.sleep)
    assert (time.now == 0) == (leave != "half a record"), "only an unreadable record must be waited for"


def test_a_number_used_again_is_another_process():
    here = Process.current()
    assert not here.ended
    assert replace(here, start="1").ended
    assert not replace(here, start="1", boot="another").ended
    child = subprocess.Popen([sys.executable, "-c", ""])
    stat = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
    named = replace(here, pid=child.pid, start=stat[19])
    child.wait()
    assert named.ended
