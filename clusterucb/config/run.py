"""A run: one selection, from pool to subset."""

from pydantic import model_validator

from clusterucb.config.evaluation import Evaluation
from clusterucb.config.features import Clusters, Features, HiddenFeatures
from clusterucb.config.gates import Gates
from clusterucb.config.gradients import Gradients
from clusterucb.config.inputs import Model, NamedTarget, Rows, Target, Tokens
from clusterucb.config.loop import Loop
from clusterucb.config.outcome import Audit, Selection
from clusterucb.config.search import Search
from clusterucb.config.section import Section, Seed
from clusterucb.config.sinks import Sinks
from clusterucb.config.store import Store
from clusterucb.config.study import Study
from clusterucb.config.training import Training, Warmup
from clusterucb.config.workers import Workers


class RunConfig(Section):
    """One selection: pool, target, model and how the budget is spent."""

    pool: Rows
    target: Target | None = None
    """The one target; `targets` where there are several."""
    targets: tuple[NamedTarget, ...] = ()
    """Several targets that share one budget: every draw is scored against all of them."""
    model: Model
    tokens: Tokens = Tokens()
    gates: Gates = Gates()
    gradients: Gradients = Gradients()
    features: Features = HiddenFeatures()
    clusters: Clusters = Clusters()
    search: Search = Search()
    selection: Selection = Selection()
    audit: Audit = Audit()
    training: Training = Training()
    warmup: Warmup = Warmup()
    loop: Loop = Loop()
    evaluation: Evaluation = Evaluation()
    study: Study = Study()
    store: Store = Store()
    workers: Workers = Workers()
    sinks: Sinks = Sinks()
    seed: Seed = 0

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each target, in their order."""
        return tuple(target.weight for target in self.targets) or (1.0,)

    @model_validator(mode="after")
    def _targets_are_there(self) -> "RunConfig":
        if (self.target is None) == (not self.targets):
            raise ValueError(
                "target is missing: give the examples of the skill as target, or several as targets"
                if self.target is None
                else "target and targets are both set: keep one"
            )
        names = [target.name for target in self.targets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"targets has {twice[0]!r} twice: give every target a name of its own")
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> "RunConfig":
        sketchless = self.gradients.sketch.kind == "none"
        if sketchless and self.gradients.scoring != "exact":
            raise ValueError(
                f"gradients.scoring is {self.gradients.scoring} but gradients.sketch is none: use exact scoring or the "
                f"hash sketch"
            )
        if sketchless and self.store.path is not None:
            raise ValueError("store.path is set but gradients.sketch is none: use the hash sketch, or leave it out")
        if self.gradients.scoring == "shortlist" and self.store.path is None:
            raise ValueError("gradients.scoring is shortlist, which ranks by kept sketches: set store.path")
        if sketchless and self.features.kind == "gradient" and self.features.path is None:
            raise ValueError("features are gradients but gradients.sketch is none: use the hash sketch")
        gradients = self.features.kind == "gradient" and self.features.path is None
        everything = self.search.allocator.kind == "exhaustive" or (
            gradients and self.search.allocator.kind != "uniform"
        )
        if self.search.until is not None and everything:
            raise ValueError("search.until stops a search, but this run scores the whole pool: leave it out")
        if self.search.until is not None and self.gradients.scoring == "shortlist":
            raise ValueError("search.until certifies exact rewards: set gradients.scoring to exact, or leave it out")
        self._check_selection()
        share = self.selection.share or (0.05 if self.selection.count is None else None)
        if share is not None and share > self.search.budget and self.search.allocator.kind != "exhaustive":
            raise ValueError(
                f"selection.share ({share:g}) exceeds search.budget ({self.search.budget:g}): "
                f"only what is scored can be selected"
            )
        return self

    def _check_selection(self) -> None:
        caps, diversity, allocator = self.selection.caps, self.selection.diversity, self.search.allocator.kind
        if caps.cluster is not None and allocator in ("uniform", "exhaustive"):
            raise ValueError(
                f"selection.caps.cluster is set but search.allocator.kind {allocator} makes no clusters: use another, "
                f"or leave it out"
            )
        if caps.cluster is not None and self.gradients.scoring == "shortlist":
            raise ValueError(
                "selection.caps.cluster is set but gradients.scoring shortlist clusters only what the store lacks: "
                "leave it out, or set gradients.scoring to exact"
            )
        if self.search.warm_start is not None and self.selection.normalise.kind == "length_trend":
            raise ValueError(
                "search.warm_start brings means of influence, and with selection.normalise length_trend the search "
                "sees it corrected: leave one of them out, or use length_quantile"
            )
        if caps.near_duplicate is not None and self.gates.near.policy == "off":
            raise ValueError(
                "selection.caps.near_duplicate is set but gates.near.policy is off, which finds none: set it to report"
            )
        if diversity.kind != "none" and self.gradients.sketch.kind == "none":
            raise ValueError(
                f"selection.diversity is {diversity.kind}, which compares sketches, but gradients.sketch is none: use "
                f"the hash sketch, or leave it out"
            )
