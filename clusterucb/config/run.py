"""A run: one selection, from pool to subset."""

from pydantic import model_validator

from clusterucb.config.features import Clusters, Features, HiddenFeatures
from clusterucb.config.gates import Gates
from clusterucb.config.gradients import Gradients
from clusterucb.config.inputs import Model, Rows, Target, Tokens
from clusterucb.config.outcome import Audit, Selection
from clusterucb.config.search import Search
from clusterucb.config.section import Section, Seed
from clusterucb.config.training import Training, Warmup
from clusterucb.config.workers import Workers


class RunConfig(Section):
    """One selection: pool, target, model and how the budget is spent."""

    pool: Rows
    target: Target
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
    workers: Workers = Workers()
    seed: Seed = 0

    @model_validator(mode="after")
    def _sections_agree(self) -> "RunConfig":
        sketchless = self.gradients.sketch.kind == "none"
        if sketchless and self.gradients.scoring == "sketch":
            raise ValueError(
                "gradients.scoring is sketch but gradients.sketch is none: use exact scoring or the hash sketch"
            )
        if sketchless and self.features.kind == "gradient" and self.features.path is None:
            raise ValueError("features are gradients but gradients.sketch is none: use the hash sketch")
        share = self.selection.share or (0.05 if self.selection.count is None else None)
        if share is not None and share > self.search.budget and self.search.allocator.kind != "exhaustive":
            raise ValueError(
                f"selection.share ({share:g}) exceeds search.budget ({self.search.budget:g}): "
                f"only what is scored can be selected"
            )
        return self
