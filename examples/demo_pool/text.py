"""Transformations of words, lists, JSON and sentences."""

import json
import random

from .task import NAMES, Maker

WORDS = (  # noqa: SIM905
    "amber bridge candle desert engine forest garden harbor island jacket kettle ladder marble needle orange pepper"
    " quartz ribbon saddle timber umbrella velvet window yellow zipper basket copper dragon falcon ginger hammer insect"
    " jungle lantern meadow napkin oyster parrot rocket silver tunnel violin walnut"
).split()


def case(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, 3)
    style, result = rng.choice(
        (
            ("snake case", "_".join(words)),
            ("kebab case", "-".join(words)),
            ("camel case", words[0] + "".join(word.title() for word in words[1:])),
            ("upper case", " ".join(words).upper()),
        )
    )
    return f'Write "{" ".join(words)}" in {style}.', f'In {style} the words "{" ".join(words)}" become {result}.'


def reverse(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, 4)
    return (
        f"Reverse the order of these words: {' '.join(words)}",
        f"Read from the last word to the first, the line is: {' '.join(reversed(words))}",
    )


def letters(rng: random.Random) -> tuple[str, str]:
    word = rng.choice(WORDS)
    letter = rng.choice(word)
    places = [i + 1 for i, other in enumerate(word) if other == letter]
    where = " and ".join(map(str, places))
    return (
        f'At which positions does the letter "{letter}" stand in "{word}"?',
        f'Spelled out, the word is {"-".join(word)}, so "{letter}" stands at position {where}, counted from one.',
    )


def record(rng: random.Random) -> tuple[str, str]:
    row = {
        "name": rng.choice(NAMES),
        "age": rng.randint(18, 80),
        "city": rng.choice(("Rome", "Oslo", "Lima", "Cairo", "Kyoto")),
    }
    keys = rng.sample(sorted(row), 3)
    facts = ", ".join(f"{key} {row[key]}" for key in keys)
    return f"Write this as a JSON object: {facts}.", json.dumps({key: row[key] for key in keys})


def rename(rng: random.Random) -> tuple[str, str]:
    old, new, kept = rng.sample(WORDS, 3)
    value, other = rng.randint(1, 99), rng.choice((True, False, None))
    before, after = {old: value, kept: other}, {new: value, kept: other}
    return f'Rename the key "{old}" to "{new}" in {json.dumps(before)}', f"The renamed object is {json.dumps(after)}"


def nest(rng: random.Random) -> tuple[str, str]:
    outer, *inner = rng.sample(WORDS, 3)
    flat = {f"{outer}.{key}": rng.randint(1, 99) for key in inner}
    nested = {outer: {key: flat[f"{outer}.{key}"] for key in inner}}
    return f"Nest the dotted keys of {json.dumps(flat)}", f"Nested, the object is {json.dumps(nested)}"


def order(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(4, 6))
    return (
        f"Put these words in alphabetical order: {', '.join(words)}.",
        f"From A to Z the order is {', '.join(sorted(words))}.",
    )


def common(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, 5)
    left, right = words[:3], [words[2], words[1], words[3]]
    rng.shuffle(left)
    rng.shuffle(right)
    both = sorted(set(left) & set(right))
    return (
        f"Which words are in both sets {{{', '.join(left)}}} and {{{', '.join(right)}}}?",
        f"The intersection of the two sets is {{{', '.join(both)}}}; every other word stands in one set only.",
    )


def unique(rng: random.Random) -> tuple[str, str]:
    words = rng.sample(WORDS, 3)
    line = [*words, *rng.choices(words, k=2)]
    rng.shuffle(line)
    return (
        f"Remove the repeated entries and keep the order: {', '.join(line)}.",
        f"Each entry kept where it comes first, the list is {', '.join(dict.fromkeys(line))}.",
    )


FORMAL = (
    ("gonna", "going to"),
    ("wanna", "want to"),
    ("gotta", "have to"),
)
DEEDS = (
    "call the office",
    "finish the report",
    "move the meeting",
    "send the parcel",
    "check the figures",
    "book a room",
)
DAYS = ("on Monday", "on Friday", "tomorrow", "next week", "this evening", "after lunch")
ACTORS = ("The gardener", "The nurse", "My uncle", "The pilot", "Our teacher", "The clerk")
ACTIONS = (
    ("opens", "opened", "the gate"),
    ("paints", "painted", "the fence"),
    ("repairs", "repaired", "the clock"),
    ("washes", "washed", "the windows"),
    ("carries", "carried", "the boxes"),
    ("counts", "counted", "the letters"),
)


def formal(rng: random.Random) -> tuple[str, str]:
    (slang, proper), deed, day = rng.choice(FORMAL), rng.choice(DEEDS), rng.choice(DAYS)
    return (
        f"Rewrite politely: hey, i {slang} {deed} {day}, ok?",
        f"Good morning. I {'am ' if slang == 'gonna' else ''}{proper} {deed} {day}, if that suits you.",
    )


def past(rng: random.Random) -> tuple[str, str]:
    actor, (now, then, thing), name = rng.choice(ACTORS), rng.choice(ACTIONS), rng.choice(NAMES)
    return (
        f"Put this sentence in the past tense: {actor} {now} {thing} and {name} helps.",
        f"In the past tense it reads: {actor} {then} {thing} and {name} helped.",
    )


def passive(rng: random.Random) -> tuple[str, str]:
    actor, (now, then, thing) = rng.choice(ACTORS), rng.choice(ACTIONS)
    be = "are" if thing.endswith("s") else "is"
    when = rng.choice(("every day", "once a week", "in spring", "at night"))
    return (
        f"Turn this into the passive voice: {actor} {now} {thing} {when}.",
        f"In the passive voice it reads: {thing.capitalize()} {be} {then} by {actor[0].lower()}{actor[1:]} {when}.",
    )


STRINGS: tuple[Maker, ...] = (case, reverse, letters)
JSON: tuple[Maker, ...] = (record, rename, nest)
SETS: tuple[Maker, ...] = (order, common, unique)
REWRITING: tuple[Maker, ...] = (formal, past, passive)
