"""What no selection should choose: spoilt rows, idle chatter, and near-copies of good rows."""

import random
from collections.abc import Callable, Sequence

from .task import NAMES, Task

OPENERS = ("lol", "hmm", "well", "btw", "ok so", "hey", "yeah", "omg", "anyway", "dunno")
REMARKS = (
    "that was fun",
    "i am so tired",
    "the weather is odd",
    "no idea tbh",
    "see you there",
    "it was not me",
    "same here",
    "my phone died",
)
REPLIES = (
    "haha yes, totally",
    "sure, whatever you say",
    "no problem at all, talk later",
    "oh well, these things happen",
    "right, i guess so",
)


def shuffled(task: Task, rng: random.Random) -> tuple[str, str]:
    """Both messages with their words in random order."""
    question, answer = task.user.split(), task.assistant.split()
    rng.shuffle(question)
    rng.shuffle(answer)
    return " ".join(question), " ".join(answer)


def truncated(task: Task, rng: random.Random) -> tuple[str, str]:
    """An answer that stops in the middle of a word."""
    return task.user, task.assistant[: rng.randint(12, max(13, len(task.assistant) // 2))]


def mistaken(task: Task, rng: random.Random) -> tuple[str, str]:
    """Letters exchanged for random ones, as a broken scan has them."""
    alphabet = "abcdefghijklmnopqrstuvwxyz#%~"
    return task.user, "".join(rng.choice(alphabet) if c.isalpha() and rng.random() < 0.4 else c for c in task.assistant)


def chatter(_: Task, rng: random.Random) -> tuple[str, str]:
    """Talk without a task."""
    return (
        f"{rng.choice(OPENERS)} {rng.choice(NAMES).lower()}, {rng.choice(REMARKS)}",
        f"{rng.choice(REPLIES)}, {rng.choice(OPENERS)} {rng.choice(REMARKS)}",
    )


SPOILERS: tuple[Callable[[Task, random.Random], tuple[str, str]], ...] = (shuffled, truncated, mistaken, chatter)


def noise_tasks(tasks: Sequence[Task], count: int, rng: random.Random) -> list[Task]:
    """Return `count` rows of noise, made from `tasks` in turn by each way of spoiling."""
    noisy = []
    for i, task in enumerate(rng.sample(list(tasks), count)):
        spoil = SPOILERS[i % len(SPOILERS)]
        noisy.append(Task(f"noise/{spoil.__name__}", *spoil(task, rng)))
    return noisy


def near_copy(domain: str, task: Task, rng: random.Random) -> Task:
    """Return the same task asked in almost the same words, with the same answer."""
    asked = task.user
    user = rng.choice((f"Please help: {asked}", f"{asked} Thanks!", f"Hello! {asked}", f"Question: {asked}"))
    return Task(f"near-duplicate/{domain}", user, task.assistant)
