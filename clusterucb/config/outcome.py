"""What comes out: the selection, its size and how it is chosen, and the audit of it."""

from typing import Literal

from pydantic import Field, model_validator

from clusterucb.config.choice import AsTheyAre, Caps, Diversity, NoDiversity, Normalise
from clusterucb.config.section import Section, Share


class Selection(Section):
    """The chosen subset: a share of the pool or a count."""

    share: Share | None = None
    count: int | None = Field(default=None, ge=1)
    joint: Literal["round_robin", "mean", "max"] = "round_robin"
    """How several targets make one selection: in turns, each taking its next best sample; or by the mean or the largest
    of the rewards, each standardised over what was scored."""
    caps: Caps = Caps()
    normalise: Normalise = AsTheyAre()
    """What influence is corrected for before samples are ranked; recall is that of the corrected ranking."""
    diversity: Diversity = NoDiversity()
    """Whether the best are taken, or those of a shortlist that differ: by the sketches of `gradients.sketch`."""

    @model_validator(mode="after")
    def _share_or_count(self) -> "Selection":
        if self.share is not None and self.count is not None:
            raise ValueError("selection.share and selection.count are both set: keep one")
        return self

    def size(self, num_pool: int) -> int:
        """Return how many samples to select from a pool of `num_pool`; 5 % where nothing is set."""
        if self.count is not None:
            return self.count
        return max(1, int(num_pool * (0.05 if self.share is None else self.share) + 1e-9))


class Audit(Section):
    """A uniform sample of what was not drawn, scored to estimate recall without bias. Outside the budget."""

    samples: int | Literal["auto"] = "auto"
    """`auto` is 1 % of the pool, at least 100 but no more than half of what was drawn; 0 turns the audit off."""
    confidence: float = Field(default=0.9, gt=0, lt=1)

    @model_validator(mode="after")
    def _samples_are_counted(self) -> "Audit":
        if self.samples != "auto" and self.samples < 0:
            raise ValueError(f"audit.samples is {self.samples}: give 0 for no audit, more, or auto")
        return self
