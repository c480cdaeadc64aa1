"""`summary.json` of an evaluation."""

from pydantic import BaseModel, ConfigDict

from clusterucb.evaluation.judged import Measure

_Z = 1.959963984540054  # 95 %


class Answer(BaseModel):
    """One generated answer."""

    model_config = ConfigDict(frozen=True)

    id: str
    subtask: str
    text: str
    found: str | None
    wanted: str
    right: bool


class Matches(BaseModel):
    """How many answers are right, with Wilson's interval of 95 %."""

    model_config = ConfigDict(frozen=True)

    examples: int
    right: int
    share: float
    low: float
    high: float
    without_answer: int


class EvaluationSummary(BaseModel):
    """The end of an evaluation."""

    model_config = ConfigDict(frozen=True)

    run: str
    base: str
    adapter: str | None
    held_out: Measure
    subtasks: dict[str, Measure]
    """Where there is more than one."""
    exact_match: Matches | None = None
    exact_match_by_subtask: dict[str, Matches] = {}
    harness: dict[str, dict[str, float]] | None = None


def matches(answers: list[Answer]) -> Matches:
    """Count the right ones."""
    count, right = len(answers), sum(answer.right for answer in answers)
    share = right / count
    middle, wide = share + _Z**2 / (2 * count), _Z * (share * (1 - share) / count + _Z**2 / (4 * count**2)) ** 0.5
    scale = 1 + _Z**2 / count
    return Matches(
        examples=count,
        right=right,
        share=share,
        low=max(0.0, (middle - wide) / scale),
        high=min(1.0, (middle + wide) / scale),
        without_answer=sum(answer.found is None for answer in answers),
    )
