"""One question with its worked answer, and how makers are drawn from until a domain is full."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """A user's message and the answer to learn from it; `source` names the maker."""

    source: str
    user: str
    assistant: str


Maker = Callable[[random.Random], tuple[str, str]]

NAMES = (
    "Ada",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gita",
    "Hugo",
    "Ines",
    "Jon",
    "Kira",
    "Leo",
    "Mona",
    "Nils",
    "Olga",
)


def fill(domain: str, makers: Sequence[Maker], count: int, rng: random.Random) -> list[Task]:
    """Return `count` tasks with distinct questions, the makers taking turns."""
    tasks: dict[str, Task] = {}
    for attempt in range(count * 50):
        if len(tasks) == count:
            break
        maker = makers[attempt % len(makers)]
        user, assistant = maker(rng)
        tasks.setdefault(user, Task(f"{domain}/{maker.__name__}", user, assistant))
    assert len(tasks) == count, f"{domain}: the makers know only {len(tasks)} of {count} questions"
    return list(tasks.values())
