"""What leaves the pool before anything is scored: copies, near-copies, and what belongs to a held-out set."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from clusterucb.config.inputs import Rows
from clusterucb.config.section import Section


def _off(value: Any) -> Any:
    """Understand YAML's `off`, which is its word for false."""
    return "off" if value is False else value


Policy = Annotated[
    Literal["exclude", "report", "off"],
    BeforeValidator(_off, json_schema_input_type=Literal["exclude", "report", "off", False]),
]


class NearDuplicates(Section):
    """Pool rows whose texts share most of their word sequences with an earlier row that stays (Jaccard similarity of
    sets of words in sequence). The first row in file order stays."""

    policy: Policy = "report"
    """`exclude` leaves them out; `report` only lists them, because what is nearly the same may still teach something
    else (another number, another answer)."""
    threshold: float = Field(default=0.8, ge=0.5, le=1.0)
    """Similarity from which two rows count as near-duplicates."""


class TargetDuplicates(Section):
    """Pool rows that are a target example, or nearly."""

    policy: Policy = "report"
    """They teach the examples themselves: leave them out where the model is judged by these."""
    threshold: float = Field(default=0.8, ge=0.5, le=1.0)


class HeldOutRows(Rows):
    """Rows that must not be trained on, such as the test set of a benchmark. They need no answer."""

    text_fields: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Fields that hold the text; none means the chat (`messages`, or `prompt` and `completion`)."""


class HeldOutRules(Section):
    """Decontamination: pool rows that share a sequence of words with a row of a held-out set."""

    policy: Policy = "exclude"
    words: int = Field(default=13, ge=5, le=50)
    """Length of a sequence; 13 is what GPT-3 and lm-eval use. A held-out row that is shorter counts as one sequence."""
    least_words: int = Field(default=8, ge=3)
    """A held-out row with fewer words cannot be told from coincidence: it is not checked, and the run says so."""
    shared: int = Field(default=1, ge=1)
    """Sequences that a pool row must share with a set to count."""
    common: int | None = Field(default=10, ge=1)
    """A sequence in more rows of its set than this is the set's prompt, not one of its examples, and does not count;
    null counts all."""


class HeldOut(HeldOutRules):
    """Decontamination: pool rows that share a sequence of words with a row of a held-out set."""

    sets: tuple[HeldOutRows, ...] = ()
    """Held-out sets; none means that there is nothing to check."""


class GateRules(Section):
    """Rows that leave the pool before anything is scored, each with what it resembles in `gates.jsonl`."""

    exact: Policy = "exclude"
    """Rows whose chat is the same, roles and text (outer white space apart), as that of an earlier row: a copy costs a
    gradient, has the same influence, and would take a second place in the selection. The first in file order stays."""
    near: NearDuplicates = NearDuplicates()
    target: TargetDuplicates = TargetDuplicates()
    shingle: int = Field(default=5, ge=1, le=20)
    """Words in sequence that near-duplicates are compared by."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the MinHash functions that find candidates; every candidate's similarity is then computed exactly."""


class Gates(GateRules):
    """Rows that leave the pool before anything is scored, each with what it resembles in `gates.jsonl`."""

    held_out: HeldOut = HeldOut()

    def policy(self, gate: Literal["held_out", "target", "exact", "near"]) -> Policy:
        """Return what happens to the rows that a gate finds."""
        match gate:
            case "held_out":
                return self.held_out.policy
            case "target":
                return self.target.policy
            case "exact":
                return self.exact
            case "near":
                return self.near.policy

    @property
    def active(self) -> bool:
        """Whether there is anything to look for."""
        held_out = bool(self.held_out.sets) and self.held_out.policy != "off"
        return held_out or any(policy != "off" for policy in (self.exact, self.near.policy, self.target.policy))
