"""One writer a run: a lease that its holder renews, and that others may take once it stays unrenewed.

Holders are numbered; the highest number has the run. Number n + 1 is created exclusively by whoever found that holder
n released its lease, has ended, or left it unchanged for `ttl_s` by the finder's own clock; only holder n writes slot
n. Invariant: with clocks that run equally fast no two hold a lease at a time. Clocks are never compared between
machines: a holder counts `ttl_s` from before its renewal, a contender from after it saw it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from clusterucb.errors import RunFolderError
from clusterucb.run.lease_slots import Slots, slots_of
from clusterucb.run.processes import Process
from clusterucb.run.run_folder import RunFolder

_LOOKS = 10  # of a contender in `ttl_s`


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lease; `count` changes with every renewal."""

    owner: str
    process: Process
    since: str
    count: int = 0
    released: bool = False

    def __str__(self) -> str:
        return f"{self.owner} (host {self.process.host}, process {self.process.pid}, since {self.since})"


class Lease:
    """The right to write a run, while `held`. Renew it about every third of `ttl_s`."""

    def __init__(
        self, slots: Slots, number: int, holder: Holder, ttl_s: float, began: float, clock: Callable[[], float]
    ) -> None:
        self._slots = slots
        self._number = number
        self._holder = holder
        self._ttl_s = ttl_s
        self._clock = clock
        self._until = began + ttl_s

    @staticmethod
    def acquire(
        folder: RunFolder,
        owner: str,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> "Lease":
        """Take the lease of a run, waiting up to `ttl_s` to see whether its holder still renews it.

        Raises RunFolderError, which names the holder, where it does.
        """
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return contend(slots_of(folder), Holder(owner, Process.current(), since), ttl_s, clock, sleep)

    @property
    def held(self) -> bool:
        """Whether this process may write: nobody can have taken the lease yet."""
        return self._clock() < self._until

    def renew(self) -> None:
        """Prolong the lease. Raises RunFolderError where somebody has taken it: the holder must stop."""
        began = self._clock()
        if began < self._until:
            self._check()
            self._holder = replace(self._holder, count=self._holder.count + 1)
            self._slots.write(self._number, _packed(self._holder))
            self._check()
            if self._clock() < self._until:
                self._until = began + self._ttl_s
                return
            began = self._clock()
        # Too late to just go on: whoever creates the next number first has the run.
        if not self._slots.create(self._number + 1, _packed(self._holder)):
            raise self._lost()
        self._number += 1
        self._check()
        self._until = began + self._ttl_s
        self._slots.drop_before(self._number)

    def release(self) -> None:
        """Let the next contender have the run at once."""
        self._until = self._clock()
        self._slots.write(self._number, _packed(replace(self._holder, released=True)))

    def _check(self) -> None:
        latest = self._slots.latest()
        if latest is None or latest[0] != self._number:
            raise self._lost()

    def _lost(self) -> RunFolderError:
        self._until = self._clock()
        latest = self._slots.latest()
        holder = None if latest is None else _unpacked(latest[1])
        return RunFolderError(
            f"{self._slots.location} was taken over by {holder or 'another process'} while this one did not answer: "
            f"this one stops, follow the other with `clusterucb watch {self._slots.location}`"
        )


def in_use(folder: RunFolder) -> bool:
    """Whether somebody holds a run's lease, as far as this machine can tell at once."""
    latest = slots_of(folder).latest()
    holder = None if latest is None else _unpacked(latest[1])
    return holder is not None and not (holder.released or holder.process.ended)


def contend(
    slots: Slots, holder: Holder, ttl_s: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Lease:
    """Watch the slots until the lease is free, or until its holder shows that it lives."""
    watched: tuple[int, bytes] | None = None
    first_seen = 0.0
    while True:
        began = clock()
        latest = slots.latest()
        number = 0 if latest is None else latest[0]
        current = None if latest is None else _unpacked(latest[1])
        free = latest is None or (current is not None and (current.released or current.process.ended))
        if not free and latest != watched:
            if watched is not None:
                raise RunFolderError(
                    f"{slots.location} is in use by {current or 'another process'}: watch it with `clusterucb watch`, "
                    f"stop it with `clusterucb cancel`, or give another folder with --out"
                )
            watched, first_seen = latest, clock()
        elif not free and began - first_seen >= ttl_s:
            free = True
        if not free:
            sleep(ttl_s / _LOOKS)
            continue
        began = clock()
        if slots.create(number + 1, _packed(holder)):
            latest = slots.latest()
            if latest is not None and latest[0] == number + 1:
                slots.drop_before(number + 1)
                return Lease(slots, number + 1, holder, ttl_s, began, clock)


def _packed(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _unpacked(data: bytes) -> Holder | None:
    """Return the holder; None where its record is not written whole."""
    try:
        fields = json.loads(data)
        return Holder(**(fields | {"process": Process(**fields["process"])}))
    except (ValueError, TypeError, KeyError):
        return None
