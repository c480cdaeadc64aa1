"""From a chat to tokens and labels.

The whole chat is rendered to text and tokenised once, without added special tokens (the template writes its own).
A token carries loss if any of its characters belongs to an assistant message or to what closes its turn (through the
first special token after it); headers, other roles and line ends after the closing token carry none. A sample's first
token never does: nothing predicts it. Turns after the last assistant message cannot influence its loss: they are left
out.

Without a chat template the chat is `<s>User: ..</s>Assistant: ..</s>` with the tokenizer's own begin and end tokens.
Invariant: the same chat, tokenizer and settings give the same tokens on every machine and day.
"""

# transformers is typed only in part: what it leaves unknown is not ours to declare.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jinja2 import TemplateError

from clusterucb.config import Tokens
from clusterucb.data.chat_spans import Span, placeholder_spans, prefix_spans
from clusterucb.data.messages import Message
from clusterucb.errors import DataError, ModelError
from clusterucb.types import IntArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BoolArray = npt.NDArray[np.bool_]
_FORMAT = 1  # of the encoding itself: raise it when the same chat would give other tokens or labels
_PLAIN_NAMES = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Some templates print today's date. A macro of that name hides the clock, and a selection can be repeated tomorrow.
_FIXED_DATE = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Tokens of a chat and which of them carry loss; no tokens at all where a longer chat is excluded."""

    tokens: npt.NDArray[np.int32]
    labels: BoolArray
    truncated: bool
    num_tokens_full: int

    @property
    def excluded(self) -> bool:
        """Whether the chat is longer than allowed and `truncation` is `exclude`."""
        return self.num_tokens_full > 0 and len(self.tokens) == 0


class ChatEncoder:
    """Encode chats with one tokenizer. Raises ModelError where the tokenizer cannot do what `config` asks for.

    `notes` says what a user should know: the fallback template, a system message that the template adds, a fixed date.
    `identity` names tokenizer, template and settings; it changes when the tokens of any chat could.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", config: Tokens) -> None:
        self.config = config
        self._tokenizer: Any = tokenizer
        self._template = None if config.template == "plain" else _template(tokenizer)
        if self._template is None and config.template == "tokenizer":
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template: set tokens.template to plain, "
                "or use the tokenizer of an instruction-tuned model"
            )
        if not tokenizer.is_fast and config.loss_on != "all":
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} ({type(tokenizer).__name__}) does not tell which "
                "characters a token covers: save it as a tokenizer.json, or set tokens.loss_on to all"
            )
        self._added_ids = frozenset({*tokenizer.all_special_ids, *self._tokenizer.added_tokens_decoder})
        self._bos, self._eos = _string(tokenizer.bos_token), _string(tokenizer.eos_token)
        self.notes = self._notes()
        self.identity = self._identity()

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Encode one chat. Raises DataError where the template refuses it or hides where the assistant speaks."""
        if self.config.loss_on == "all":
            tokens, _, _ = self._tokenise(self._render(messages, False), offsets=False)
            labels = np.ones(len(tokens), np.bool_)
        else:
            last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=-1)
            if last < 0:
                raise DataError("the chat has no assistant message to learn: remove it")
            tokens, labels = self._with_loss_on_assistant(messages[: last + 1])
        return self._cut(tokens, labels)

    def prompt(self, messages: Sequence[Message]) -> npt.NDArray[np.int32]:
        """Return the tokens after which the last assistant message begins. Raises DataError where there is none."""
        last = max((i for i, message in enumerate(messages) if message.role == "assistant"), default=-1)
        if last < 0:
            raise DataError("the chat has no assistant message, so nobody is asked: remove it")
        return self._tokenise(self._render(messages[:last], True), offsets=False)[0]

    def _with_loss_on_assistant(self, messages: Sequence[Message]) -> tuple[npt.NDArray[np.int32], BoolArray]:
        full = self._render(messages, False)
        spans = placeholder_spans(messages, full, self._render)
        if spans is None and self._template is not None and _GENERATION.search(self._template):
            return self._with_template_mask(messages)
        if spans is None:
            spans = prefix_spans(messages, full, self._render, last_only=self.config.loss_on == "last_assistant")
        if spans is None:
            raise DataError(
                "the chat template does not show where the assistant speaks in this chat: mark it in the template with "
                "{% generation %}, set tokens.template to plain, or tokens.loss_on to last_assistant or all"
                if self.config.loss_on == "assistant"
                else "the chat template does not show the last assistant message as it was given: mark it in the "
                "template with {% generation %}, set tokens.template to plain, or tokens.loss_on to all"
            )
        tokens, starts, stops = self._tokenise(full, offsets=True)
        labels = np.zeros(len(tokens), np.bool_)
        for span in spans if self.config.loss_on == "assistant" else spans[-1:]:
            end = self._turn_end(span, full, tokens, starts, stops)
            labels |= (stops > span.start) & (starts < end)
        return tokens, labels

    def _turn_end(self, span: Span, full: str, tokens: npt.NDArray[np.int32], starts: IntArray, stops: IntArray) -> int:
        """Return where the turn is closed: after the first special token, else after the last visible character."""
        for i in np.flatnonzero((starts >= span.stop) & (stops <= span.limit)).tolist():
            if int(tokens[i]) in self._added_ids:
                return int(stops[i])
        return span.stop + len(full[span.stop : span.limit].rstrip())

    def _with_template_mask(self, messages: Sequence[Message]) -> tuple[npt.NDArray[np.int32], BoolArray]:
        """Take the labels from the template's own `{% generation %}` blocks."""
        encoded = self._tokenizer.apply_chat_template(
            _plain_messages(messages),
            chat_template=self._template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        labels = np.asarray(encoded["assistant_masks"], np.bool_)
        if self.config.loss_on == "last_assistant" and labels.any():
            last = int(np.flatnonzero(labels)[-1])
            before = np.flatnonzero(~labels[:last])
            labels[: int(before[-1]) + 1 if len(before) else 0] = False
        return np.asarray(encoded["input_ids"], np.int32), labels

    def _render(self, messages: Sequence[Message], generation_prompt: bool) -> str:
        if self._template is None:
            end = self._eos or "\n"
            turns = "".join(f"{_PLAIN_NAMES[message.role]}: {message.content}{end}" for message in messages)
            return self._bos + turns + ("Assistant: " if generation_prompt else "")
        try:
            return self._tokenizer.apply_chat_template(
                _plain_messages(messages),
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=generation_prompt,
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages[:8])
            raise DataError(
                f"the chat template refuses this chat ({error}; roles: {roles}): change the messages, or set "
                "tokens.template to plain"
            ) from error

    def _tokenise(self, full: str, offsets: bool) -> tuple[npt.NDArray[np.int32], IntArray, IntArray]:
        """Return tokens and the characters `start:stop` each covers; a token that covers none is given its next one."""
        encoded = self._tokenizer(
            full, add_special_tokens=False, return_offsets_mapping=offsets, return_attention_mask=False, verbose=False
        )
        tokens = np.asarray(encoded["input_ids"], np.int32)
        pairs = np.asarray(encoded["offset_mapping"] if offsets else [], np.int64).reshape(-1, 2)
        starts, stops = pairs[:, 0], pairs[:, 1]
        return tokens, starts, np.maximum(stops, starts + 1)

    def _cut(self, tokens: npt.NDArray[np.int32], labels: BoolArray) -> Encoded:
        full, most = len(tokens), self.config.max_length
        if full > most:
            kept = {"right": slice(0, most), "left": slice(full - most, full), "exclude": slice(0, 0)}
            part = kept[self.config.truncation]
            tokens, labels = tokens[part].copy(), labels[part].copy()
        labels[:1] = False
        return Encoded(tokens, labels, full > most and len(tokens) > 0, full)

    def _notes(self) -> tuple[str, ...]:
        notes: list[str] = []
        if self._template is None:
            asked = self.config.template == "plain"
            why = "tokens.template is plain" if asked else "the tokenizer has no chat template"
            end = self._eos or "a line break that carries no loss, for the tokenizer has no end token"
            notes.append(f"{why}: chats are written as `User: ..` and `Assistant: ..`, every turn closed by {end}")
        else:
            added = self._added_system_message()
            if added:
                notes.append(f"the chat template adds a system message where a chat has none: {added!r}")
            if self._template.startswith(_FIXED_DATE):
                notes.append("the chat template prints today's date: it is fixed at 26 Jul 2024")
        limit = self._tokenizer.model_max_length
        if limit < self.config.max_length:
            notes.append(f"tokens.max_length ({self.config.max_length}) exceeds the tokenizer's own limit ({limit})")
        return tuple(notes)

    def _added_system_message(self) -> str:
        """Return what the template says in the place of a system message where there is none."""
        system, user = Message("system", "\ue2f2"), Message("user", "\ue2f3")
        try:
            before, after = self._render([system, user], False).split(system.content)
            without = self._render([user], False)
        except (DataError, ValueError):  # it takes no system message, or shows it elsewhere
            return ""
        between = after.split(user.content)[0]
        head = without.split(user.content)[0]
        if not between or not (head.startswith(before) and head.endswith(between)):
            return ""
        return head[len(before) : len(head) - len(between)].strip()

    def _identity(self) -> str:
        if self._tokenizer.is_fast:
            parts = json.loads(self._tokenizer.backend_tokenizer.to_str())
            vocabulary = {key: value for key, value in parts.items() if key not in ("truncation", "padding")}
        else:
            vocabulary = self._tokenizer.get_vocab()
        content = [_FORMAT, vocabulary, self._template, self._bos, self._eos, self.config.model_dump(mode="json")]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def _template(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Return the chat template, with the clock taken out."""
    if not tokenizer.chat_template:
        return None
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has several chat templates and no default: name one default, "
            "or set tokens.template to plain"
        ) from error
    return _FIXED_DATE + template if "strftime_now" in template else template


def _plain_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _string(token: object) -> str:
    return "" if token is None else str(token)
