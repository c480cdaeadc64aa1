"""What a summary says of a search that was watched, apart from the search: readers of summaries load no torch."""

from pydantic import BaseModel, ConfigDict


class LookResult(BaseModel):
    """What one look certified; of several targets the least."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    drawn: int
    audited: int
    recall: float
    low: float


class UntilResult(BaseModel):
    """Whether the asked recall was certified, or the budget ended first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall: float
    confidence: float
    reached: bool
    looks: tuple[LookResult, ...]
