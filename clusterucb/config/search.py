"""Which samples are scored: allocators and their rounds."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clusterucb.config.section import Section, Share


class UcbBeta(Section):
    """The paper's index: mean + beta * standard deviation of an arm's rewards."""

    kind: Literal["ucb_beta"] = "ucb_beta"
    beta: float = Field(default=1.0, ge=0)


class Ucb1(Section):
    """mean + scale * sqrt(2 ln(draws) / draws of the arm), counting draws in flight."""

    kind: Literal["ucb1"] = "ucb1"
    scale: float = Field(default=1.0, ge=0)


class ThreshHard(Section):
    """Share of an arm's rewards at or above the running top-p threshold."""

    kind: Literal["thresh_hard"] = "thresh_hard"
    top: Share | None = None
    """Share of the drawn samples above the threshold; none means selection over budget."""


class ThreshNormal(Section):
    """Probability, under a normal fit of the arm, of a reward above the running top-p threshold."""

    kind: Literal["thresh_normal"] = "thresh_normal"
    top: Share | None = None


class Predictive(Section):
    """Predict every sample's reward from features and clusters, anew each round; draw where the expected gain over
    the running top-k threshold is largest. Where prediction shows no skill, it draws like `ucb_beta`."""

    kind: Literal["predictive"] = "predictive"
    components: int = Field(default=64, ge=1, le=512)
    """Principal components that stand for the features."""
    start: Share = 0.1
    """Share of the budget that is drawn first, spread over the clusters in proportion to their size; at least 8 draws.
    Takes the place of `search.cold_start` and `search.cold_start_min`, which count for the fall-back alone."""
    beta: float = Field(default=1.0, ge=0)
    """Of the fall-back."""


class Uniform(Section):
    """Draw uniformly from the whole pool: the baseline."""

    kind: Literal["uniform"] = "uniform"


class Exhaustive(Section):
    """Score everything: the reference. The budget is ignored."""

    kind: Literal["exhaustive"] = "exhaustive"


Allocator = Annotated[
    UcbBeta | Ucb1 | ThreshHard | ThreshNormal | Predictive | Uniform | Exhaustive, Field(discriminator="kind")
]


class Rounds(Section):
    """Sizes of the rounds after the cold start; a pure function of the configuration."""

    first: int = Field(default=8, ge=1)
    """Draws in a round at least."""
    growth: float = Field(default=1.1, ge=1.0)
    """Factor by which a round multiplies the draws so far, cold start included; 1 keeps every round at `first`."""
    lag: int = Field(default=0, ge=0, le=1)
    """Round t is planned from the results of rounds up to t - 1 - lag; 1 keeps every worker busy while a round
    drains."""


class WarmStart(Section):
    """Begin with what an earlier run found of the same samples: a few draws an arm settle the scale of rewards, and
    the earlier ones then count as discounted draws, fewer where arms have moved. For `ucb_beta` and `ucb1`."""

    path: str
    """Folder or URL of the earlier run."""
    discount: float = Field(default=0.5, gt=0, le=1)
    """Draws of now that an earlier one counts for at most."""
    probe: float = Field(default=0.005, ge=0, le=1)
    """Share of every cluster that is drawn first, in place of `search.cold_start`."""
    probe_min: int = Field(default=1, ge=1)
    """Draws a cluster gets at least in this probe."""


class Until(Section):
    """Stop when the asked recall is certain enough; the budget bounds draws and audits together. `audit` is not used:
    this has audits of its own, of samples that the search has not drawn."""

    recall: float = Field(gt=0.0, lt=1.0)
    """Share of the true top (the selection's size of the usable pool) that must have been scored."""
    confidence: float = Field(default=0.9, ge=0.5, lt=1.0)
    """Probability with which no look stops the run below that recall."""
    looks: int = Field(default=10, ge=1, le=100)
    """Looks, evenly spaced over the budget after the cold start. More may stop earlier, but share the error."""
    audit: float = Field(default=0.2, gt=0.0, lt=1.0)
    """Share of what is scored that is audited instead of drawn. To certify a recall of r takes about
    3 * undrawn / ((1 - r) * selection) audits at least, whatever the size of the pool."""


class SearchRules(Section):
    """Which samples are scored."""

    allocator: Allocator = UcbBeta()
    budget: Share = 0.2
    """Share of the pool that may be scored, cold start included."""
    until: Until | None = None
    """Stop before the budget is spent, when enough of the top is certain to have been scored."""
    cold_start: float = Field(default=0.02, ge=0, le=1)
    """Share of every cluster that is drawn first. The paper's code takes 0.05: half of a budget of 10 %."""
    cold_start_min: int = Field(default=2, ge=1)
    """Draws a cluster gets at least in the cold start (its size permitting)."""
    rounds: Rounds = Rounds()
    compat: Literal["official"] | None = None
    """`official` reproduces the released code: cold start max(floor(share*size), 1) a cluster and population
    deviations."""


class Search(SearchRules):
    """Which samples are scored."""

    warm_start: WarmStart | None = None
    """None: every search begins anew, as in the paper."""

    @property
    def first_share(self) -> float:
        """Share of every cluster that is drawn first."""
        return self.cold_start if self.warm_start is None else self.warm_start.probe

    @property
    def first_min(self) -> int:
        """Draws that a cluster gets first, at least."""
        return self.cold_start_min if self.warm_start is None else self.warm_start.probe_min

    @model_validator(mode="after")
    def _means_can_be_brought(self) -> "Search":
        if self.warm_start is not None and self.allocator.kind not in ("ucb_beta", "ucb1"):
            raise ValueError(
                f"search.warm_start brings means of clusters, and search.allocator.kind {self.allocator.kind} does not "
                f"look at them: use ucb_beta or ucb1, or leave it out (predictive learns from features.path)"
            )
        if self.warm_start is not None and self.compat is not None:
            raise ValueError("search.warm_start is not in the released code: leave search.compat out")
        return self
