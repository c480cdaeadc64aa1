"""What samples are clustered and predicted by."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clusterucb.config.inputs import Lora
from clusterucb.config.section import Section, Seed


class GradientFeatures(Section):
    """Sketches of the whole pool: the paper's features. `path` brings sketches of an earlier checkpoint."""

    kind: Literal["gradient"] = "gradient"
    path: str | None = None
    """Folder or URL of an earlier run, or `.npy` file, with sketches of this pool; none computes them now, and then
    every reward is known too. Of an earlier run the predictive allocator also sees the influences, the predictions, and
    the products of its sketches with this target, where these are made alike."""


class MatchedFeatures(Section):
    """Features that are computed here, hence of the target's examples too."""

    match: bool = True
    """Whether the predictive allocator also sees the products of a sample's features with the mean of each subtask's:
    how much it looks like the target. It takes the features of the target's few examples besides the pool's."""


class HiddenFeatures(MatchedFeatures):
    """Hidden states of the model itself, pooled over the sample: one forward pass a sample."""

    kind: Literal["hidden"] = "hidden"
    layer: Literal["final", "middle"] | int = "final"
    """An index counts blocks from 1; the forward pass stops after that block."""
    pooling: Literal["weighted", "mean"] = "weighted"
    """`weighted` gives later positions linearly more weight."""


class OutputGradientFeatures(MatchedFeatures):
    """Loss gradient at the final hidden state x final hidden state, summed over the label tokens and sketched: the
    gradient of a linear map put between the model and its output embedding. One forward pass a sample."""

    kind: Literal["output_gradient"] = "output_gradient"
    dim: int = Field(default=2048, ge=64, le=65536)
    """Dimensions of the sketch, a signed hash."""
    seed: Seed = 0
    """Of the sketch."""


class ProxyLora(Lora):
    """The fresh adapter of a proxy: on every linear layer, whatever they are called."""

    target_modules: tuple[str, ...] | Literal["all-linear"] | None = "all-linear"


class ProxyFeatures(MatchedFeatures):
    """Sketches of the gradients of another, much smaller causal language model, with its own tokenizer: plain
    gradients of the loss on the same messages, taken by the same workers. It is used as it is, without a warm-up on the
    pool; a trained `adapter` may be brought."""

    kind: Literal["proxy"] = "proxy"
    base: str
    """Folder or hub id of the smaller model."""
    revision: str | None = None
    adapter: str | None = None
    """Folder or hub id of a LoRA adapter for it; none means a fresh one from `lora`."""
    lora: ProxyLora = ProxyLora()
    modules: Literal["lora"] | tuple[str, ...] = "lora"
    """`lora`, or regular expressions that name linear layers of it whose weights' gradients are taken."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_length: int = Field(default=512, ge=2)
    """Of its own tokens; fewer where it has positions for fewer."""
    truncation: Literal["right", "left"] = "left"
    """`left` keeps the last tokens, which are those of the answer."""
    dim: int = Field(default=2048, ge=64, le=65536)
    """Dimensions of the sketch, a signed hash."""
    seed: Seed = 0
    """Of the sketch."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Padded tokens in a micro-batch."""


class EmbeddingFeatures(MatchedFeatures):
    """Sentence embeddings of any encoder that transformers loads, mean-pooled."""

    kind: Literal["embedding"] = "embedding"
    encoder: str
    max_length: int = Field(default=256, ge=2)
    batch_size: int = Field(default=32, ge=1)


class GivenFeatures(Section):
    """Features that the pool's rows carry: a column of numbers."""

    kind: Literal["given"] = "given"
    field: str = "features"


Feature = Annotated[
    GradientFeatures | HiddenFeatures | OutputGradientFeatures | ProxyFeatures | EmbeddingFeatures | GivenFeatures,
    Field(discriminator="kind"),
]

MOST_PARTS = 8


class SeveralFeatures(Section):
    """Several kinds side by side. Clusters come from the first; the predictive allocator sees all of them, and a sample
    that lacks one of the others counts as average there. Other allocators leave all but the first uncomputed."""

    kind: Literal["several"] = "several"
    parts: tuple[Feature, ...] = Field(min_length=1, max_length=MOST_PARTS)
    """Features as they are set alone; a part of kind `gradient` needs its `path`."""

    @model_validator(mode="after")
    def _gradients_are_brought(self) -> "SeveralFeatures":
        for i, part in enumerate(self.parts):
            if part.kind == "gradient" and part.path is None:
                raise ValueError(
                    f"features.parts.{i} are gradients of this checkpoint, which show every reward: give its path, "
                    f"or take gradients alone"
                )
        return self


Features = Annotated[
    GradientFeatures
    | HiddenFeatures
    | OutputGradientFeatures
    | ProxyFeatures
    | EmbeddingFeatures
    | GivenFeatures
    | SeveralFeatures,
    Field(discriminator="kind"),
]


class ClusterRules(Section):
    """Spherical k-means over the features."""

    k: int | Literal["auto"] = "auto"
    """`auto` is min(sqrt(N), budget * N / 5), at least 2: the budget buys five draws a cluster or more."""
    center: bool = True
    """Take the mean direction off the features first. The paper does not; see docs/method.md for what that costs."""
    iterations: int = Field(default=50, ge=1, le=10_000)
    tolerance: float = Field(default=1e-4, ge=0)
    """Stop when the mean cosine to the nearest centroid improves by less than this share."""
    init_sample: int = Field(default=65536, ge=2)
    """k-means++ chooses its start among this many points at most."""
    train_sample: int = Field(default=256, ge=1)
    """Points a cluster that the iterations see; a larger pool then updates the centroids once and is assigned."""

    @model_validator(mode="after")
    def _k_is_positive(self) -> "ClusterRules":
        if self.k != "auto" and self.k < 1:
            raise ValueError(f"clusters.k is {self.k}: give at least 1, or auto")
        return self


class Clusters(ClusterRules):
    """Spherical k-means over the features."""

    path: str | None = None
    """Folder or URL of an earlier run whose clusters are kept; none makes them from the features. Samples that it did
    not know are left out."""
