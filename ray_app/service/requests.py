"""What a request asks for: the run configuration's own sections, with names of the catalogue in place of paths.

Invariant: no field of any request is a path, a hub id or a regular expression; text that reaches a file is a row.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from clusterucb.config import (
    MOST_PARTS,
    Audit,
    ClusterRules,
    GateRules,
    GivenFeatures,
    HeldOutRules,
    HiddenFeatures,
    Name,
    OutputGradientFeatures,
    SearchRules,
    Section,
    Seed,
    Selection,
    Tokens,
)
from clusterucb.data.messages import Role, parse_messages

Text = Annotated[str, StringConstraints(max_length=2**20)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Label = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
MOST_TARGETS = 16
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


class AskedTarget(Section):
    """One of several targets: what the service knows under this name or, with `rows`, examples sent along under it."""

    name: Name
    """What its selection, and its columns among the scores, are called."""
    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Its part of the draws, and of the joint selection, against the other targets'."""
    rows: Annotated[tuple[ChatRow, ...], Field(min_length=1)] | None = None
    subtask_field: Word | None = None
    """Field that groups the rows in subtasks; none means one subtask."""

    @model_validator(mode="after")
    def _subtasks_are_of_rows(self) -> "AskedTarget":
        if self.subtask_field is not None and self.rows is None:
            raise ValueError(f"subtask_field groups rows, and target {self.name} has none: leave it out, or send rows")
        return self


class AskedHeldOut(HeldOutRules):
    """Decontamination: pool rows that share a sequence of words with a row of a held-out set."""

    sets: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    """Held-out sets of the catalogue; none means that there is nothing to check."""


class AskedGates(GateRules):
    """Rows that leave the pool before anything is scored."""

    held_out: AskedHeldOut = AskedHeldOut()


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
    tokens: Tokens | None = None
    """How chats become tokens; the checkpoint's way where it is left out."""


class SelectionRequest(_OnACheckpoint):
    """A selection: pool, target, checkpoint and how the budget is spent. Sections are the run configuration's."""

    pool: Name
    """Pool of the catalogue."""
    target: Name | InlineTarget | None = None
    """Name of a target of the catalogue or of one uploaded with this token, or the examples themselves."""
    targets: Annotated[tuple[AskedTarget, ...], Field(max_length=MOST_TARGETS)] = ()
    """Several targets that share one budget, in place of `target`; each gets a selection, and all get one together."""
    gates: AskedGates = AskedGates()
    features: AskedFeatures | None = None
    """The checkpoint's where it is left out."""
    clusters: ClusterRules = ClusterRules()
    search: SearchRules = SearchRules()
    selection: Selection = Selection()
    audit: Audit = Audit()
    seed: Seed = 0
    label: Label = ""
    """What its owner calls it; nothing depends on it."""

    @model_validator(mode="after")
    def _target_or_targets(self) -> "SelectionRequest":
        if (self.target is None) == (not self.targets):
            raise ValueError("give either target or targets: one skill, or several that share a budget")
        names = [target.name for target in self.targets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"targets has {twice[0]!r} twice: give every target a name of its own")
        return self


class ScoreRequest(_OnACheckpoint):
    """Samples whose influence on a target is asked for."""

    target: Name | InlineTarget
    """Name of a target of the catalogue or of one uploaded with this token, or the examples themselves."""

    rows: Annotated[tuple[ChatRow, ...], Field(min_length=1)]


class TargetUpload(InlineTarget):
    """A target to keep under a name, for the token that sends it."""

    name: Name
    description: Label = ""
