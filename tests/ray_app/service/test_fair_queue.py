"""The line: an owner's runs keep their order, and no owner waits behind another's many."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ray_app.service.fair_queue import FairQueue

OWNERS = ("ann", "bob", "eve")


@given(st.lists(st.sampled_from(OWNERS), max_size=40), st.integers(1, 4))
def test_everything_starts_once_in_its_owners_order_and_owners_take_turns(owners: list[str], at_once: int):
    queue = FairQueue()
    for number, owner in enumerate(owners):
        queue.add(owner, f"{number:03}")
    foreseen = queue.order()
    started: list[str] = []
    going: list[str] = []
    while queue:
        if len(going) == at_once:
            queue.done(going.pop(0))
        run = queue.take()
        assert run is not None
        started.append(run)
        going.append(owners[int(run)])
        waiting = {owner for owner in OWNERS if queue.waiting_of(owner)}
        fewest = min((Counter(going)[owner] for owner in waiting), default=len(going))
        assert Counter(going)[going[-1]] - 1 <= fewest, "an owner with fewer running was passed over"
    assert queue.take() is None
    assert sorted(started) == sorted(foreseen) == [f"{number:03}" for number in range(len(owners))]
    for owner in OWNERS:
        mine = [run for run in started if owners[int(run)] == owner]
        assert mine == sorted(mine)


def test_who_asks_once_waits_for_one_of_a_hundred_others():
    queue = FairQueue()
    for number in range(100):
        queue.add("ann", f"a{number:02}")
    assert queue.take() == "a00"
    queue.add("bob", "b")
    assert queue.order()[:3] == ["b", "a01", "a02"]
    queue.done("ann")
    assert queue.take() == "b"


def test_a_run_that_is_taken_out_does_not_start():
    queue = FairQueue()
    queue.add("ann", "1")
    queue.add("ann", "2")
    assert queue.remove("ann", "1")
    assert not queue.remove("ann", "1")
    assert not queue.remove("bob", "2")
    assert queue.take() == "2"
    assert (len(queue), queue.running) == (0, 1)


def test_a_run_that_was_going_before_counts_for_its_owner():
    queue = FairQueue()
    queue.began("ann")
    queue.add("ann", "a")
    queue.add("bob", "b")
    assert queue.order() == ["b", "a"]
