"""What a request asks for: the run configuration's own sections, with names of the catalogue in place of paths.

Invariant: no field of any request is a path, a hub id or a regular expression; text that reaches a file is a row.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from clusterucb.config import (
    MOST_PARTS,
    Audit,
    Clusters,
    GivenFeatures,
    HiddenFeatures,
    Name,
    OutputGradientFeatures,
    Search,
    Section,
    Seed,
    Selection,
    Tokens,
)
from clusterucb.data.messages import Role, parse_messages

Text = Annotated[str, StringConstraints(max_length=2**20)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Label = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
LARGEST = 2**53
"""Largest whole number that every JSON reader keeps."""


class ChatMessage(Section):
    """One turn of a chat."""

    role: Role
    content: Text


Chat = Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=1024)]


class ChatRow(BaseModel):
    """One sample: chat `messages`, or `prompt` and `completion`. Other fields are carried along."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    messages: Chat | None = None
    prompt: Text | Chat | None = None
    completion: Text | Chat | None = None
    id: Word | None = None
    """Unique; a hash of the content where it is left out."""

    @model_validator(mode="after")
    def _is_a_chat(self) -> "ChatRow":
        parse_messages(self.raw())
        return self

    def raw(self) -> dict[str, Any]:
        """Return the row as it was sent."""
        return self.model_dump(mode="json", exclude_unset=True)


class InlineTarget(Section):
    """Examples of the wanted skill, sent along."""

    rows: Annotated[tuple[ChatRow, ...], Field(min_length=1)]
    subtask_field: Word | None = None
    """Field that groups the examples in subtasks; none means one subtask."""


class NamedFeatures(Section):
    """Features of the catalogue."""

    kind: Literal["catalogue"] = "catalogue"
    name: Name


class OwnGradientFeatures(Section):
    """Sketches of the whole pool, computed now: the paper's features, at the price of every gradient."""

    kind: Literal["gradient"] = "gradient"


AskedFeature = Annotated[
    HiddenFeatures | OutputGradientFeatures | GivenFeatures | NamedFeatures, Field(discriminator="kind")
]


class AskedSeveralFeatures(Section):
    """Several kinds side by side; clusters come from the first."""

    kind: Literal["several"] = "several"
    parts: tuple[AskedFeature, ...] = Field(min_length=1, max_length=MOST_PARTS)


AskedFeatures = Annotated[
    HiddenFeatures
    | OutputGradientFeatures
    | GivenFeatures
    | OwnGradientFeatures
    | NamedFeatures
    | AskedSeveralFeatures,
    Field(discriminator="kind"),
]


class _OnACheckpoint(Section):
    checkpoint: Name
    """Model of the catalogue."""
    target: Name | InlineTarget
    """Name of a target of the catalogue or of one uploaded with this token, or the examples themselves."""
    tokens: Tokens | None = None
    """How chats become tokens; the checkpoint's way where it is left out."""


class SelectionRequest(_OnACheckpoint):
    """A selection: pool, target, checkpoint and how the budget is spent. Sections are the run configuration's."""

    pool: Name
    """Pool of the catalogue."""
    features: AskedFeatures | None = None
    """The checkpoint's where it is left out."""
    clusters: Clusters = Clusters()
    search: Search = Search()
    selection: Selection = Selection()
    audit: Audit = Audit()
    seed: Seed = 0
    label: Label = ""
    """What its owner calls it; nothing depends on it."""


class ScoreRequest(_OnACheckpoint):
    """Samples whose influence on a target is asked for."""

    rows: Annotated[tuple[ChatRow, ...], Field(min_length=1)]


class TargetUpload(InlineTarget):
    """A target to keep under a name, for the token that sends it."""

    name: Name
    description: Label = ""
