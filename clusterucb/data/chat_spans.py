"""Where the assistant speaks in a rendered chat: character spans, found by rendering and comparing.

A template is a program: it may trim a message, drop earlier reasoning, add a system message or a closing token. So
nothing is searched by content. The chat is rendered once more with a placeholder for every assistant message; what
stands between the placeholders is the template's own text, and the chat as rendered must be exactly that text with
the messages in the gaps. Two renderings, however many turns. Where a template treats a placeholder unlike the message
(reasoning tags, usually), prefixes of the chat are rendered instead, and each must be a prefix of the whole.
Invariant: spans come in order, and no span is a guess: where the pieces do not fit there is no answer.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from clusterucb.data.messages import Message

Render = Callable[[Sequence[Message], bool], str]
"""Render a chat as text, with the header of the next assistant message where the flag says so."""

_OPEN, _CLOSE = "\ue2f0", "\ue2f1"  # private use characters
_PLACEHOLDER = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start:stop` are an assistant message; the template closes the turn somewhere in `stop:limit`."""

    start: int
    stop: int
    limit: int


def placeholder_spans(messages: Sequence[Message], full: str, render: Render) -> tuple[Span, ...] | None:
    """Return the span of every assistant message in `full`, the rendered chat; None where the pieces do not fit."""
    contents = [message.content for message in messages if message.role == "assistant"]
    numbers = iter(range(len(contents)))
    stand_ins = [
        Message("assistant", f"{_OPEN}{next(numbers)}{_CLOSE}") if message.role == "assistant" else message
        for message in messages
    ]
    parts = _PLACEHOLDER.split(render(stand_ins, False))
    between, order = parts[::2], parts[1::2]
    if order != [str(i) for i in range(len(contents))] or not full.startswith(between[0]):
        return None
    closing = between[-1]
    spans: list[Span] = []
    start = len(between[0])
    for content, after in zip(contents, between[1:], strict=True):
        shown = _as_shown(content, after, full, start)
        if shown is None:
            return None
        stop = start + len(shown)
        spans.append(Span(start, stop, stop + _common(after, closing)))
        start = stop + len(after)
    return tuple(spans) if start == len(full) else None


def prefix_spans(messages: Sequence[Message], full: str, render: Render, last_only: bool) -> tuple[Span, ...] | None:
    """Return the same by rendering prefixes: all that follows the generation prompt counts as the message."""
    spans: list[Span] = []
    speaking = [i for i, message in enumerate(messages) if message.role == "assistant"]
    for i in speaking[-1:] if last_only else speaking:
        if i == 0:
            return None
        head = render(messages[:i], True)
        upto = full if i == len(messages) - 1 else render(messages[: i + 1], False)
        stop = len(upto.rstrip())
        if not (full.startswith(head) and full.startswith(upto) and stop > len(head)):
            return None
        spans.append(Span(len(head), stop, stop))
    return tuple(spans)


def _as_shown(content: str, after: str, full: str, start: int) -> str | None:
    """Return the message as the template shows it: whole, or trimmed at either end."""
    for shown in (content, content.strip(), content.lstrip(), content.rstrip()):
        if full.startswith(shown + after, start):
            return shown
    return None


def _common(a: str, b: str) -> int:
    """Return the length of the longest common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
