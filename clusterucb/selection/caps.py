"""Caps: at most so many of one group. Whoever takes samples one by one asks here first.

Invariant: a sample that was refused once stays refused, for groups only fill up; so what is left out can be counted.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clusterucb.config import Cap
from clusterucb.types import IntArray

_NAMED = 5


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The group of each of B samples, -1 for none, under the name of the cap that it counts for."""

    cap: str
    codes_B: IntArray
    name: Callable[[int], str]

    def allowed(self, cap: Cap, count: int) -> int:
        """Return how many samples a cap leaves when `count` are asked for."""
        limit = cap.limit(count)
        codes: list[int] = self.codes_B.tolist()
        sizes = Counter(codes)
        return sum(size if code < 0 else min(size, limit) for code, size in sizes.items())


@dataclass(frozen=True, slots=True)
class CapUse:
    """What one cap did: groups that reached its limit, and samples passed over that rank above the last one taken.

    A sample that several caps refused counts for each of them.
    """

    cap: str
    limit: int
    full: int
    left_out: int
    most: tuple[tuple[str, int], ...]
    """The groups with the most samples passed over, at most five."""


class Admission:
    """Caps as the selection fills up. `factor` widens every limit, for a list that another choice is made from."""

    def __init__(self, caps: Mapping[str, Cap], groups: Sequence[Groups], count: int, factor: float = 1.0) -> None:
        by_name = {each.cap: each for each in groups}
        if missing := sorted(caps.keys() - by_name.keys()):
            raise AssertionError(f"caps without groups: {missing}")
        self._groups = [by_name[name] for name in caps]
        self._limits = [math.ceil(factor * cap.limit(count) - 1e-9) for cap in caps.values()]
        self._taken: list[Counter[int]] = [Counter() for _ in caps]
        self._refused: list[dict[int, int]] = [{} for _ in caps]

    @property
    def active(self) -> bool:
        """Whether there is a cap at all."""
        return bool(self._groups)

    def admits(self, position: int) -> bool:
        """Say whether every cap has room for the sample, and remember it where one has not."""
        admitted = True
        for groups, limit, taken, refused in zip(self._groups, self._limits, self._taken, self._refused, strict=True):
            code = int(groups.codes_B[position])
            if code >= 0 and taken[code] >= limit:
                refused[position] = code
                admitted = False
        return admitted

    def take(self, position: int) -> None:
        """Count a sample."""
        for groups, taken in zip(self._groups, self._taken, strict=True):
            code = int(groups.codes_B[position])
            if code >= 0:
                taken[code] += 1

    def uses(self) -> tuple[CapUse, ...]:
        """Say what each cap did."""
        found: list[CapUse] = []
        for groups, limit, taken, refused in zip(self._groups, self._limits, self._taken, self._refused, strict=True):
            by_group = Counter(refused.values())
            most = sorted(by_group.items(), key=lambda each: (-each[1], groups.name(each[0])))[:_NAMED]
            full = sum(count >= limit for count in taken.values())
            named = tuple((groups.name(code), count) for code, count in most)
            found.append(CapUse(groups.cap, limit, full, len(refused), named))
        return tuple(found)
