"""How often and how many at once: token buckets for requests, counted slots for open streams.

Invariant: both hold for one process; replicas count on their own.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ray_app.service.refusals import QueueFull

_MOST_KEYS = 4096
_BURST_S = 6.0


class Rate:
    """At most `per_minute` a minute for each key, a tenth of them at once."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_s = per_minute / 60
        self._most = max(1.0, self._per_s * _BURST_S)
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one; return 0, or the seconds to wait where none is left."""
        now = self._clock()
        left, then = self._left.pop(key, (self._most, now))
        left = min(self._most, left + (now - then) * self._per_s)
        wait = 0.0 if left >= 1 else (1 - left) / self._per_s
        self._left[key] = (left if wait else left - 1, now)
        if len(self._left) > _MOST_KEYS:
            self._left.popitem(last=False)  # the one that was idle longest
        return wait


class Watchers:
    """Open event streams, limited in all and for each token's name."""

    def __init__(self, most: int, most_each: int) -> None:
        self._most, self._most_each = most, most_each
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, name: str) -> Generator[None]:
        """Hold one stream open. Raises QueueFull where there are too many."""
        if self._open.total() >= self._most or self._open[name] >= self._most_each:
            raise QueueFull(
                f"{self._open.total()} event streams are open ({self._open[name]} of {name}), and limits.watchers is "
                f"{self._most} ({self._most_each} a token): close some, or ask for the run instead"
            )
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            self._open += Counter()  # forget names that hold none
