"""An actor that was started again begins, also when its first call to itself is lost."""

import threading

import pytest

from actors.revival import begin_by_itself


@pytest.mark.parametrize("lost", [0, 3])
def test_it_asks_until_it_is_heard_and_no_longer(lost: int):
    asked = list[int]()
    heard, looked = threading.Event(), threading.Event()

    def ask() -> None:
        asked.append(len(asked))
        if len(asked) > lost:
            heard.set()

    def begun() -> bool:
        if heard.is_set():
            looked.set()
        return heard.is_set()

    begin_by_itself(ask, begun, 0.01)
    assert looked.wait(10), "it gave up"
    assert len(asked) == lost + 1


def test_what_has_begun_is_not_asked():
    looked = threading.Event()

    def begun() -> bool:
        looked.set()
        return True

    def ask() -> None:
        raise AssertionError("asked for nothing")

    begin_by_itself(ask, begun, 0.01)
    assert looked.wait(10)
