"""Unit conversions, dates and logic: domains near to arithmetic without being word problems."""

import calendar
import datetime as dt
import random

from .task import NAMES, Maker

UNITS = (
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("kilograms", "grams", 1000),
    ("days", "hours", 24),
    ("feet", "inches", 12),
    ("gallons", "quarts", 4),
    ("weeks", "days", 7),
    ("litres", "millilitres", 1000),
)


def to_smaller(rng: random.Random) -> tuple[str, str]:
    large, small, factor = rng.choice(UNITS)
    count = rng.randint(2, 40)
    return (
        f"Convert {count} {large} to {small}.",
        f"One of the {large} holds {factor} {small}, so multiply by {factor}: {count} {large} are"
        f" {count * factor} {small}.",
    )


def to_larger(rng: random.Random) -> tuple[str, str]:
    large, small, factor = rng.choice(UNITS)
    count = rng.randint(2, 40)
    return (
        f"How many {large} are {count * factor} {small}?",
        f"Divide by {factor}, because {factor} {small} make one of the {large}. The result is {count} {large}.",
    )


def temperature(rng: random.Random) -> tuple[str, str]:
    celsius = rng.randrange(-40, 105, 5)
    return (
        f"What is {celsius} degrees Celsius on the Fahrenheit scale?",
        f"Multiply the Celsius value by 9/5 and add 32. For {celsius} degrees this gives"
        f" {celsius * 9 // 5 + 32} degrees Fahrenheit.",
    )


def day_after(rng: random.Random) -> tuple[str, str]:
    start, days = dt.date(2001, 1, 1) + dt.timedelta(rng.randrange(9000)), rng.randint(5, 60)
    end = start + dt.timedelta(days)
    return (
        f"Which date is {days} days after {start.isoformat()}?",
        f"Counting {days} days forward from {start.isoformat()} over the ends of the months, we reach"
        f" {end.isoformat()}.",
    )


def weekday(rng: random.Random) -> tuple[str, str]:
    day = dt.date(2001, 1, 1) + dt.timedelta(rng.randrange(9000))
    name = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")[day.weekday()]
    place = "at the weekend" if day.weekday() > 4 else "on a working day"
    return (
        f"On which day of the week does {day.isoformat()} fall?",
        f"By the Gregorian calendar {day.isoformat()} is a {name}, so it falls {place}.",
    )


def leap(rng: random.Random) -> tuple[str, str]:
    year = rng.randint(1800, 2200)
    reason = (
        "It can be divided by 4, and it is not a century that breaks the rule"
        if calendar.isleap(year)
        else "It is a century that 400 does not divide"
        if year % 100 == 0
        else "It cannot be divided by 4"
    )
    return (
        f"Does February of {year} have 29 days?",
        f"{reason}, so {year} is"
        f" {'a leap year and February has 29' if calendar.isleap(year) else 'a common year and February has 28'} days.",
    )


def connective(rng: random.Random) -> tuple[str, str]:
    p, q = rng.random() < 0.5, rng.random() < 0.5
    first, second = rng.sample("abcdefgh", 2)
    word, value, rule = rng.choice(
        (
            ("and", p and q, "A conjunction holds only when both sides hold"),
            ("or", p or q, "A disjunction holds when at least one side holds"),
            ("xor", p != q, "An exclusive or holds when exactly one side holds"),
        )
    )
    return (
        f"{first} is {str(p).lower()} and {second} is {str(q).lower()}. Evaluate: {first} {word} {second}.",
        f"{rule}. Here {first} is {str(p).lower()} and {second} is {str(q).lower()}, so the expression is"
        f" {str(value).lower()}.",
    )


def syllogism(rng: random.Random) -> tuple[str, str]:
    name = rng.choice(NAMES)
    group, trait, job = (
        rng.choice(("choir", "chess club", "rowing team")),
        rng.choice(("likes tea", "wears a hat", "owns a cat")),
        rng.choice(("is tall", "plays cards", "lives in town")),
    )
    if rng.random() < 0.5:
        return (
            f"Everyone in the {group} {trait}. {name} is in the {group} and {job}. Does it follow that {name} {trait}?",
            f"Yes. {name} belongs to the {group}, and the first sentence speaks of all its members, so {name} {trait}.",
        )
    return (
        f"Everyone in the {group} {trait}. {name} {trait} and {job}. Does it follow that {name} is in the {group}?",
        f"No. The rule says what members do, but others may do it too, so nothing follows about {name} and the"
        f" {group}.",
    )


def ordering(rng: random.Random) -> tuple[str, str]:
    a, b, c = rng.sample(NAMES, 3)
    more, most, least = rng.choice(
        (("older", "oldest", "youngest"), ("taller", "tallest", "shortest"), ("faster", "fastest", "slowest"))
    )
    asked, answer = rng.choice(((most, a), (least, c)))
    return (
        f"{a} is {more} than {b}, and {b} is {more} than {c}. Who is the {asked}?",
        f"The order from the {most} to the {least} is {a}, {b}, {c}. Therefore the {asked} is {answer}.",
    )


UNIT: tuple[Maker, ...] = (to_smaller, to_larger, temperature)
DATE: tuple[Maker, ...] = (day_after, weekday, leap)
LOGIC: tuple[Maker, ...] = (connective, syllogism, ordering)
