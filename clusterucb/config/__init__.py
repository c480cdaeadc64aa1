"""The one schema: the YAML file, `--set a.b=c`, the HTTP body and the OpenAPI document are all this model.

Unknown keys are errors, values are frozen, algorithms are discriminated unions on `kind`, and the defaults are the
vetted setting. This module imports no torch, so that `--help` and validation answer at once.

What a run *computes* is settled by every section but `workers`, `store` and `sinks`: `workers` only says where and how
fast, `store` what need not be computed again, `sinks` who else is told.
"""

from clusterucb.config.evaluation import Evaluation, ExactMatch, Harness
from clusterucb.config.features import (
    MOST_PARTS,
    Clusters,
    EmbeddingFeatures,
    Feature,
    Features,
    GivenFeatures,
    GradientFeatures,
    HiddenFeatures,
    OutputGradientFeatures,
    ProxyFeatures,
    ProxyLora,
    SeveralFeatures,
)
from clusterucb.config.gates import Gates, HeldOut, HeldOutRows, NearDuplicates, Policy, TargetDuplicates
from clusterucb.config.gradients import (
    Adam,
    Gradients,
    HashSketch,
    NoSketch,
    Plain,
    Preconditioner,
    RademacherSketch,
    Sketch,
)
from clusterucb.config.inputs import Lora, Model, NamedTarget, Rows, Target, Tokens
from clusterucb.config.loop import Loop, WarmArms
from clusterucb.config.outcome import Audit, Selection
from clusterucb.config.run import RunConfig
from clusterucb.config.search import (
    Allocator,
    Exhaustive,
    Predictive,
    Rounds,
    Search,
    ThreshHard,
    ThreshNormal,
    Ucb1,
    UcbBeta,
    Uniform,
    Until,
    WarmStart,
)
from clusterucb.config.section import Section, Seed, Share
from clusterucb.config.service import (
    Catalogue,
    CataloguePool,
    CatalogueTarget,
    Checkpoint,
    Limits,
    Name,
    Retention,
    ServiceConfig,
    SketchCache,
)
from clusterucb.config.sinks import MLflow, Sinks, TensorBoard, WandB
from clusterucb.config.store import Store
from clusterucb.config.study import Arm, Study
from clusterucb.config.training import Training, Warmup
from clusterucb.config.workers import Workers

__all__ = [
    "MOST_PARTS",
    "Adam",
    "Allocator",
    "Arm",
    "Audit",
    "Catalogue",
    "CataloguePool",
    "CatalogueTarget",
    "Checkpoint",
    "Clusters",
    "EmbeddingFeatures",
    "Evaluation",
    "ExactMatch",
    "Exhaustive",
    "Feature",
    "Features",
    "Gates",
    "GivenFeatures",
    "GradientFeatures",
    "Gradients",
    "Harness",
    "HashSketch",
    "HeldOut",
    "HeldOutRows",
    "HiddenFeatures",
    "Limits",
    "Loop",
    "Lora",
    "MLflow",
    "Model",
    "Name",
    "NamedTarget",
    "NearDuplicates",
    "NoSketch",
    "OutputGradientFeatures",
    "Plain",
    "Policy",
    "Preconditioner",
    "Predictive",
    "ProxyFeatures",
    "ProxyLora",
    "RademacherSketch",
    "Retention",
    "Rounds",
    "Rows",
    "RunConfig",
    "Search",
    "Section",
    "Seed",
    "Selection",
    "ServiceConfig",
    "SeveralFeatures",
    "Share",
    "Sinks",
    "Sketch",
    "SketchCache",
    "Store",
    "Study",
    "Target",
    "TargetDuplicates",
    "TensorBoard",
    "ThreshHard",
    "ThreshNormal",
    "Tokens",
    "Training",
    "Ucb1",
    "UcbBeta",
    "Uniform",
    "Until",
    "WandB",
    "WarmArms",
    "WarmStart",
    "Warmup",
    "Workers",
]
