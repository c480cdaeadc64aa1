"""The runs that wait, and whose turn it is: a line for every owner, served in turn.

Invariants: an owner's runs start in the order in which they were asked for; the next run is of an owner that has the
fewest running, and of equal ones of that which was served longest ago, so that who asks for a hundred runs makes nobody
wait for more than one of them.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class FairQueue:
    """Runs by owner. `running` counts an owner's runs that are not waiting any more."""

    _lines: dict[str, deque[str]] = field(default_factory=dict)
    _running: Counter[str] = field(default_factory=Counter)
    _served: dict[str, int] = field(default_factory=dict)
    _turn: int = 0

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    @property
    def running(self) -> int:
        """Runs that were taken and are not done."""
        return self._running.total()

    def waiting_of(self, owner: str) -> int:
        """Return how many runs of an owner wait."""
        return len(self._lines.get(owner, ()))

    def add(self, owner: str, run_id: str) -> None:
        """Have a run wait behind its owner's others."""
        self._lines.setdefault(owner, deque()).append(run_id)

    def remove(self, owner: str, run_id: str) -> bool:
        """Let a run wait no more; return whether it did."""
        if run_id not in self._lines.get(owner, ()):
            return False
        self._lines[owner].remove(run_id)
        return True

    def take(self) -> str | None:
        """Return the run whose turn it is, which is running from now on."""
        owner = self._next(self._lines, self._running, self._served)
        if owner is None:
            return None
        self.began(owner)
        return self._lines[owner].popleft()

    def began(self, owner: str) -> None:
        """Count one more running run of an owner."""
        self._running[owner] += 1
        self._turn += 1
        self._served[owner] = self._turn

    def done(self, owner: str) -> None:
        """Count one running run of an owner less."""
        self._running[owner] -= 1

    def order(self) -> list[str]:
        """Return the waiting runs in the order in which they would start if nothing running ended before."""
        lines = {owner: deque(line) for owner, line in self._lines.items()}
        running, served, turn, found = Counter(self._running), dict(self._served), self._turn, list[str]()
        while (owner := self._next(lines, running, served)) is not None:
            found.append(lines[owner].popleft())
            turn += 1
            running[owner], served[owner] = running[owner] + 1, turn
        return found

    @staticmethod
    def _next(lines: dict[str, deque[str]], running: Counter[str], served: dict[str, int]) -> str | None:
        waiting: Iterable[str] = (owner for owner, line in lines.items() if line)
        return min(waiting, key=lambda owner: (running[owner], served.get(owner, 0), lines[owner][0]), default=None)
