"""From a raw row to a chat: `messages`, or `prompt` and `completion`.

Invariant: a chat that leaves this module has known roles, text that can be encoded as UTF-8, and, unless it is only
looked at, at least one assistant message with something in it. Everything else is a `DataError` that names the field
and the way out; the caller adds where the row stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from clusterucb.errors import DataError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


def parse_messages(row: Mapping[str, Any], answered: bool = True) -> tuple[Message, ...]:
    """Return the chat of a row; `messages` wins where a row also carries a `prompt`, as several public sets do.

    A row that is only looked at, not learnt from, needs no answer: `answered=False`, and a `prompt` may stand alone.
    """
    if row.get("messages") is not None:
        messages = _message_list(row["messages"], "messages")
    elif row.get("prompt") is not None and row.get("completion") is not None:
        messages = (*_side(row["prompt"], "prompt", "user"), *_side(row["completion"], "completion", "assistant"))
    elif row.get("prompt") is not None and not answered:
        messages = _side(row["prompt"], "prompt", "user")
    else:
        raise DataError(_missing(row))
    if answered and not any(message.role == "assistant" and message.content.strip() for message in messages):
        raise DataError("messages hold no assistant message with text, so there is nothing to learn: remove the row")
    return messages


def text(value: object, field: str) -> str:
    """Return `value` if it is text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise DataError(f"{field} is {kind(value)}: make it text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{field} holds half a surrogate pair at character {error.start}, which is no valid text: repair the escape"
        ) from None
    return value


def kind(value: object) -> str:
    """Name the JSON type of a value, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else f"of type {type(value).__name__}"


def _side(value: object, field: str, role: Role) -> tuple[Message, ...]:
    return (Message(role, text(value, field)),) if isinstance(value, str) else _message_list(value, field)


def _message_list(value: object, field: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise DataError(f"{field} is {kind(value)}: give a list of {{role, content}}")
    items = cast("list[object]", value)
    if not items:
        raise DataError(f"{field} is empty: give at least a user and an assistant message, or remove the row")
    return tuple(_message(item, f"{field}[{i}]") for i, item in enumerate(items))


def _message(value: object, field: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"{field} is {kind(value)}: give an object with role and content")
    item = cast("Mapping[str, object]", value)
    for key in ("role", "content"):
        if key not in item:
            raise DataError(f"{field} has no {key} (it has {_names(item)}): give every message a role and a content")
    if item.get("tool_calls"):
        raise DataError(f"{field}.tool_calls would be lost: write the calls into content")
    role = text(item["role"], f"{field}.role")
    if role not in ROLES:
        raise DataError(f"{field}.role is {role!r}: use one of {', '.join(ROLES)}")
    return Message(cast("Role", role), text(item["content"], f"{field}.content"))


def _missing(row: Mapping[str, Any]) -> str:
    for have, lack in (("prompt", "completion"), ("completion", "prompt")):
        if row.get(have) is not None:
            return f"{have} stands without {lack}: give both, or messages"
    hint = "; conversations with from/value must be rewritten as role/content" if "conversations" in row else ""
    return f"neither messages nor prompt and completion are there (the row has {_names(row)}{hint}): give one of them"


def _names(row: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, row))[:12]) or "no fields"
