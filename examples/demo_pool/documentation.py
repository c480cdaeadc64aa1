"""Questions answered by the Python documentation and docstrings that come with every Python (PSF licence)."""

import importlib
import inspect
import re
from pydoc_data.topics import topics

from .task import Task

MODULES = (  # noqa: SIM905
    "bisect calendar collections colorsys contextlib copy csv difflib fnmatch fractions functools heapq html"
    " itertools json keyword linecache math operator posixpath pprint random re shlex shutil statistics string"
    " struct tempfile textwrap tokenize traceback types urllib.parse uuid weakref"
).split()
MIN_WORDS, MAX_WORDS = 8, 40


def _opening(text: str) -> str:
    """Return the first sentences of a plain paragraph, MAX_WORDS at most."""
    sentences = re.split(r"(?<=[.!?])\s+", " ".join(text.split()))
    taken = sentences[0]
    for sentence in sentences[1:]:
        if len(f"{taken} {sentence}".split()) > MAX_WORDS:
            break
        taken = f"{taken} {sentence}"
    return taken


def _is_prose(text: str) -> bool:
    return (
        MIN_WORDS <= len(text.split()) <= MAX_WORDS and text.endswith(".") and "::=" not in text and ">>>" not in text
    )


def doc_tasks(count: int) -> list[Task]:
    """Return `count` passages of the language reference, at most three a topic, in the order of the topics' names."""
    passages: list[list[Task]] = [[], [], []]
    for _, page in sorted(topics.items()):
        title, *paragraphs = re.split(r"\n\s*\n", page)
        heading = title.split("\n")[0].strip()
        texts = [_opening(p) for p in paragraphs if not p.startswith((" ", "*", "-", "Note"))]
        for turn, text in zip(range(3), filter(_is_prose, texts), strict=False):
            question = ("What does the Python reference say", "Quote more", "Add a further remark")[turn]
            passages[turn].append(Task("docs/reference", f"{question} about: {heading}", text))
    return _first(count, [task for turn in passages for task in turn])


def docstring_tasks(count: int) -> list[Task]:
    """Return `count` functions and classes with the opening of their docstrings, the modules taking turns."""
    columns: list[list[Task]] = []
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        names = getattr(module, "__all__", None) or sorted(vars(module))
        column: list[Task] = []
        for name in names:
            member = getattr(module, name, None)
            if name.startswith("_") or not (inspect.isroutine(member) or inspect.isclass(member)):
                continue
            text = _opening(" ".join(re.split(r"\n\s*\n", inspect.getdoc(member) or "")[:2]))
            if _is_prose(text):
                column.append(Task("docstrings/stdlib", f"What does {module_name}.{name} do in Python?", text))
        columns.append(column)
    depth = max(map(len, columns))
    return _first(count, [column[i] for i in range(depth) for column in columns if i < len(column)])


def _first(count: int, tasks: list[Task]) -> list[Task]:
    by_answer = {task.assistant: task for task in reversed(tasks)}
    kept = [task for task in tasks if by_answer[task.assistant] is task]
    assert len(kept) >= count, f"this Python's documentation yields {len(kept)} passages, not {count}"
    return kept[:count]
