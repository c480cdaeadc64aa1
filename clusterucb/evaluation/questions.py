"""The held-out examples that have a right answer: what the model is asked, and what it should say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clusterucb.config import Evaluation, ExactMatch
from clusterucb.data.chat import ChatEncoder
from clusterucb.data.rows import RowReader, read_rows
from clusterucb.errors import DataError
from clusterucb.evaluation.answers import extracted
from clusterucb.evaluation.generation import Prompt
from clusterucb.evaluation.held_out import held_out_rows


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One example."""

    id: str
    subtask: str
    prompt: Prompt
    wanted: str


def questions(evaluation: Evaluation, settings: ExactMatch, encoder: ChatEncoder) -> tuple[Question, ...]:
    """Return the examples with an answer, in order. Raises DataError where none has one, or one cannot be read."""
    reader = read_rows(held_out_rows(evaluation))
    rows = list(reader)
    found: list[Question] = []
    for row, raw in zip(rows, reader.raw(range(len(rows))), strict=True):
        if settings.limit is not None and len(found) >= settings.limit:
            break
        value = raw.get(settings.answer_field)
        if value is not None:
            wanted = _wanted(value, settings, reader, row.position)
            found.append(Question(row.id, row.subtask, encoder.prompt(row.messages), wanted))
    if not found:
        raise DataError(
            f"no row of {reader.name} has the field {settings.answer_field!r}{_fields(reader)}: set "
            f"evaluation.exact_match.answer_field, or leave exact_match out"
        )
    return tuple(found)


def _wanted(value: Any, settings: ExactMatch, reader: RowReader, position: int) -> str:
    text = value if isinstance(value, str) else str(value)
    answer = extracted(text, settings)
    if answer is None and settings.extract == "last_number":
        raise DataError(
            f"{reader.location(position)}: {settings.answer_field} is {text!r}, in which there is no number: set "
            f"evaluation.exact_match.extract to whole or regex"
        )
    return text.strip() if answer is None else answer


def _fields(reader: RowReader) -> str:
    first: Sequence[dict[str, Any]] = list(reader.raw([0]))
    return f" (the first has {', '.join(first[0])})"
