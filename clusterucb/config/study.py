"""The proof on one's own data: what is trained on, and how often."""

from typing import Literal

from pydantic import Field, model_validator

from clusterucb.config.section import Section

Arm = Literal["selected", "random", "matched", "exhaustive", "whole"]


class Study(Section):
    """What `study` compares. Every arm makes the same optimizer steps, at the same rates, from the same start."""

    arms: tuple[Arm, ...] = ("selected", "random", "matched")
    """`selected`: the subset of the run. `random`: as many samples of the pool, drawn anew for each seed. `matched`: as
    `random`, but each sample as long as one of the selected ones. `exhaustive`: what scoring the whole pool selects.
    `whole`: the pool, for as many steps as the others make."""
    files: dict[str, str] = Field(default={})
    """Further arms by name, or `selected` and `exhaustive` in place of the run's: files with an id a line, or JSON
    lines with ids, such as a `selection.jsonl`."""
    seeds: int = Field(default=3, ge=1)
    """Trainings an arm, each with a start, an order and random samples of its own; counted from `seed`."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the selected subset; they settle the steps of all arms."""
    points: int = Field(default=4, ge=1)
    """Evaluations on the way, evenly spaced, the last one at the end."""
    start: Literal["model", "checkpoint"] = "model"
    """`model`: a fresh adapter, as LESS trains. `checkpoint`: the adapter and moments whose gradients were taken."""
    exhaustive: str | None = None
    """Finished run that scored the whole pool; none means that the study makes it, where the arm is asked for."""

    @model_validator(mode="after")
    def _arms_are_there(self) -> "Study":
        if not self.arms and not self.files:
            raise ValueError("study.arms and study.files are empty: name at least one arm")
        if odd := [name for name in self.files if name in ("random", "matched", "whole", "none")]:
            raise ValueError(f"study.files has {odd[0]!r}, which the study draws itself: give the file another name")
        if odd := [name for name in self.files if not name.replace("-", "").replace("_", "").isalnum()]:
            raise ValueError(f"study.files has {odd[0]!r}: name arms with letters, digits, - and _")
        return self
