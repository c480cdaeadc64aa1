"""How a model is judged: on which examples, by loss and by the answers that it generates."""

import re
from typing import Literal

from pydantic import Field, model_validator

from clusterucb.config.inputs import Target
from clusterucb.config.section import Section


class ExactMatch(Section):
    """Answers that the model generates, greedily, against a field of the examples."""

    answer_field: str = "answer"
    """Field with the right answer; examples without it are left out."""
    extract: Literal["last_number", "regex", "whole"] = "last_number"
    """What of a text is its answer: the last number, compared as a number; what `pattern` finds; or all of it. Right
    answers are read in the same way where that finds anything."""
    pattern: str | None = None
    """With `regex`: a regular expression whose last match counts, its first group where it has one."""
    max_new_tokens: int = Field(default=256, ge=1)
    batch_size: int = Field(default=16, ge=1)
    """Examples that are answered together."""
    limit: int | None = Field(default=None, ge=1)
    """Only so many examples, the first."""

    @model_validator(mode="after")
    def _pattern_is_one(self) -> "ExactMatch":
        if (self.extract == "regex") != (self.pattern is not None):
            raise ValueError(
                f"evaluation.exact_match.extract is {self.extract} and pattern {self.pattern!r}: a pattern belongs to "
                f"regex, and regex to a pattern"
            )
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(
                    f"evaluation.exact_match.pattern {self.pattern!r} is no regular expression: {error}"
                ) from None
        return self


class Harness(Section):
    """Tasks of lm-evaluation-harness (`pip install 'clusterucb-service[harness]'`)."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Their names there."""
    few_shot: int | None = Field(default=None, ge=0)
    """Examples before each question; none means what a task itself says."""
    limit: int | None = Field(default=None, ge=1)
    """Only so many questions a task."""
    batch_size: int = Field(default=8, ge=1)
    include: str | None = None
    """Folder with task files of your own."""


class Evaluation(Section):
    """How `evaluate` and `study` judge a model."""

    held_out: Target | None = None
    """Examples that steered nothing and that nothing was trained on. `--held-out FILE` sets the path."""
    max_length: int | None = Field(default=None, ge=2)
    """Tokens of an example that count, in place of `tokens.max_length`."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Tokens in one forward pass, padding included."""
    exact_match: ExactMatch | None = None
    """None: no answers are generated. For `evaluate`."""
    harness: Harness | None = None
    """None: no tasks of lm-evaluation-harness. For `evaluate`."""
