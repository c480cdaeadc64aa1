"""Small Python functions with a test, and regular expressions; every answer runs."""

import random
from pathlib import Path

from .task import Maker
from .text import WORDS

FENCE = "```python\n{}\n```"


def _answer(*lines: str) -> str:
    return FENCE.format("\n".join(lines))


def keep_numbers(rng: random.Random) -> tuple[str, str]:
    k = rng.randint(2, 40)
    word, test, sample = rng.choice(
        (
            ("greater than", ">", [k - 1, k + 1]),
            ("less than", "<", [k + 1, k - 1]),
            ("different from", "!=", [k, k + 2]),
        )
    )
    return (
        f"Write a Python function that keeps the numbers {word} {k} of a list.",
        _answer(
            "def keep(numbers):",
            f"    return [n for n in numbers if n {test} {k}]",
            "",
            f"assert keep({sample}) == {sample[1:]}",
        ),
    )


def repeat(rng: random.Random) -> tuple[str, str]:
    times, mark = rng.randint(2, 5), rng.choice("-+.,/:")
    joined = mark.join(["ab"] * times)
    return (
        f'Write a Python function that repeats a text {times} times, joined by "{mark}".',
        _answer(
            "def repeat(text):", f'    return "{mark}".join([text] * {times})', "", f'assert repeat("ab") == "{joined}"'
        ),
    )


def chunks(rng: random.Random) -> tuple[str, str]:
    size = rng.randint(2, 12)
    rest = rng.randint(1, size)
    return (
        f"Write a Python function that cuts a sequence in parts of {size} and show how many {size + rest} items give.",
        _answer(
            "def parts(items):",
            f"    return [items[i:i + {size}] for i in range(0, len(items), {size})]",
            "",
            f"assert len(parts(range({size + rest}))) == 2",
        ),
    )


def count_word(rng: random.Random) -> tuple[str, str]:
    word = rng.choice(WORDS)
    return (
        f'Write a Python function that counts the lines which contain "{word}".',
        _answer(
            "def count(lines):",
            f'    return sum("{word}" in line for line in lines)',
            "",
            f'assert count(["a {word}", "b"]) == 1',
        ),
    )


def lookup(rng: random.Random) -> tuple[str, str]:
    key, other = rng.sample(WORDS, 2)
    default = rng.randint(0, 9)
    return (
        f'Write a Python function that reads "{key}" from a dictionary, or {default} if it is missing.',
        _answer(
            "def read(table):",
            f'    return table.get("{key}", {default})',
            "",
            f'assert read({{"{other}": 1}}) == {default}',
        ),
    )


def compute(rng: random.Random) -> tuple[str, str]:
    a, b, x = rng.randint(2, 9), rng.randint(1, 20), rng.randint(2, 6)
    return (
        f"Write a Python function for {a} times the square of x plus {b}.",
        _answer("def f(x):", f"    return {a} * x ** 2 + {b}", "", f"assert f({x}) == {a * x**2 + b}"),
    )


def every(rng: random.Random) -> tuple[str, str]:
    step, start = rng.randint(2, 6), rng.randint(0, 3)
    taken = list(range(start, 10, step))
    return (
        f"Write a Python function that takes every {step}. item of a list, starting at index {start}.",
        _answer(
            "def every(items):", f"    return items[{start}::{step}]", "", f"assert every(list(range(10))) == {taken}"
        ),
    )


def loop(rng: random.Random) -> tuple[str, str]:
    limit, divisor = rng.randint(10, 40), rng.randint(2, 7)
    total = sum(n for n in range(limit) if n % divisor == 0)
    return (
        f"Write a Python loop that adds the multiples of {divisor} below {limit}.",
        _answer(
            "total = 0",
            f"for n in range({limit}):",
            f"    if n % {divisor} == 0:",
            "        total += n",
            f"assert total == {total}",
        ),
    )


def guard(rng: random.Random) -> tuple[str, str]:
    low, high = rng.randint(0, 9), rng.randint(10, 99)
    return (
        f"Write a Python function that limits a value to the range {low} to {high}.",
        _answer(
            "def limit(value):", f"    return max({low}, min({high}, value))", "", f"assert limit({high + 5}) == {high}"
        ),
    )


CLASSES = (
    ("digits", r"\d", "7"),
    ("upper-case letters", "[A-Z]", "Q"),
    ("lower-case letters", "[a-z]", "k"),
    ("vowels", "[aeiou]", "e"),
    ("hexadecimal digits", "[0-9a-f]", "f"),
)


def exactly(rng: random.Random) -> tuple[str, str]:
    name, symbol, example = rng.choice(CLASSES)
    count, word = rng.randint(2, 9), rng.choice(WORDS)
    return (
        f'Give a regular expression for "{word}" followed by {count} {name}.',
        f"The pattern ^{word}{symbol}{{{count}}}$ asks for the word and then {count} {name}, as in"
        f' "{word}{example * count}".',
    )


def either(rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(WORDS, 2)
    return (
        f'Which regular expression matches a line that starts with "{first}" or "{second}"?',
        f"Use ^(?:{first}|{second}): the caret ties the match to the start, and the bar separates the two words.",
    )


def between(rng: random.Random) -> tuple[str, str]:
    name, symbol, _ = rng.choice(CLASSES)
    low = rng.randint(1, 4)
    high = low + rng.randint(1, 5)
    return (
        f"How do I match between {low} and {high} {name} with a regular expression?",
        f"Write {symbol}{{{low},{high}}}, where the braces give the smallest and the largest count of {name}.",
    )


PYTHON: tuple[Maker, ...] = (keep_numbers, repeat, chunks, count_word, lookup, compute, every, loop, guard)
REGEX: tuple[Maker, ...] = (exactly, either, between)


def target_programs() -> list[tuple[str, str]]:
    """Return questions and programs of the target, in the order of their file."""
    text = Path(__file__).with_name("target_programs.py").read_text("utf-8")
    cells = [cell.partition("\n") for cell in text.split("# %% ")[1:]]
    return [(question, _answer(program.strip().replace("\n\n\n", "\n\n"))) for question, _, program in cells]
