"""The one schema: the YAML file, `--set a.b=c`, the HTTP body and the OpenAPI document are all this model.

Unknown keys are errors, values are frozen, algorithms are discriminated unions on `kind`, and the defaults are the
vetted setting. This module imports no torch, so that `--help` and validation answer at once.

What a run *computes* is settled by every section but `workers`; `workers` only says where and how fast.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A frozen part of the configuration that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# --- what users bring -------------------------------------------------------------------------------------------


class Rows(Section):
    """Rows of chat `messages` or `prompt`/`completion`, from a file or a Hugging Face dataset."""

    path: str
    """A `.jsonl`, `.jsonl.gz`, `.json` or `.parquet` file, a folder or glob of them, a dataset saved to disk, or a
    hub id."""
    format: Literal["auto", "jsonl", "parquet", "dataset"] = "auto"
    """`auto` decides by what stands at the path; `dataset` is a Hugging Face dataset, saved to disk or on the hub."""
    split: str = "train"
    """Split of a Hugging Face dataset."""
    revision: str | None = None
    """Revision of a hub dataset."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first rows."""
    on_bad_row: Literal["error", "skip"] = "error"
    """`skip` leaves bad rows out and reports every one of them."""
    id_field: str = "id"
    """Field with a unique id; rows without it get a hash of their content."""
    source_field: str = "source"
    """Field that says where a row comes from; used for reports and caps."""


class Target(Rows):
    """The examples that embody the wanted skill."""

    subtask_field: str | None = None
    """Field that groups the examples in subtasks; none means one subtask. The influence is the maximum over them."""


class Lora(Section):
    """A fresh, seeded LoRA adapter, used where no trained one is given."""

    r: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    target_modules: tuple[str, ...] | Literal["all-linear"] | None = ("q_proj", "k_proj", "v_proj", "o_proj")
    """Names of the linear layers that get an adapter; null leaves the choice to peft."""
    init_b: Literal["zero", "gaussian"] = "zero"
    """With `zero` (the usual start) every LoRA-A gradient is exactly zero; `gaussian` draws B at a hundredth of A's
    scale."""


class Model(Section):
    """Base model, adapter and Adam moments: the checkpoint whose gradients are taken."""

    base: str
    """Folder or hub id of a causal language model that transformers loads."""
    revision: str | None = None
    adapter: str | None = None
    """Folder or hub id of a LoRA adapter that peft loads; none means a fresh one from `lora`."""
    lora: Lora = Lora()
    moments: str | None = None
    """Adam moments: our safetensors file or folder, or an optimizer state of transformers, DeepSpeed or FSDP. None:
    plain gradients."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights: `auto` is bfloat16 on a GPU that has it and float32 elsewhere. Gradient arithmetic is float32."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"


class Tokens(Section):
    """How a chat becomes tokens and labels."""

    max_length: int = Field(default=512, ge=2)
    truncation: Literal["right", "left", "exclude"] = "right"
    """What happens to longer samples: keep the first tokens, keep the last, or exclude the sample and report it."""
    loss_on: Literal["assistant", "last_assistant", "all"] = "assistant"
    """Which messages carry the loss."""
    template: Literal["auto", "tokenizer", "plain"] = "auto"
    """`tokenizer` needs its chat template; `plain` is `User: ..` / `Assistant: ..`; `auto` falls back to `plain`
    and says so."""


# --- gradients --------------------------------------------------------------------------------------------------


class Adam(Section):
    """Precondition training gradients as one Adam step would: m'/sqrt(v'), with the moments of the checkpoint."""

    kind: Literal["adam"] = "adam"
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    eps_inside_root: bool = True
    """True as in LESS and the official code: sqrt(v'+eps); False as in the textbook: sqrt(v')+eps."""


class Plain(Section):
    """Take training gradients as they are."""

    kind: Literal["plain"] = "plain"


Preconditioner = Annotated[Adam | Plain, Field(discriminator="kind")]


class HashSketch(Section):
    """Sparse signed-hash sketch: every coordinate is added, with a random sign, to `nonzeros` of `dim` buckets."""

    kind: Literal["hash"] = "hash"
    dim: int = Field(default=8192, ge=64)
    nonzeros: int = Field(default=1, ge=1, le=16)
    seed: Seed = 0


class RademacherSketch(Section):
    """Dense random signs, as in the official code: exact theory, many times the cost."""

    kind: Literal["rademacher"] = "rademacher"
    dim: int = Field(default=8192, ge=64)
    seed: Seed = 0


class NoSketch(Section):
    """Keep no sketches."""

    kind: Literal["none"] = "none"


Sketch = Annotated[HashSketch | RademacherSketch | NoSketch, Field(discriminator="kind")]


class Gradients(Section):
    """Which gradients are taken, and how they are turned into influence."""

    modules: Literal["lora"] | tuple[str, ...] = "lora"
    """`lora`, or regular expressions that name linear layers of the base model whose weights' gradients are taken."""
    precondition: Preconditioner = Adam()
    sketch: Sketch = HashSketch()
    scoring: Literal["exact", "sketch"] = "exact"
    """`exact` takes dot products with the target inside the backward pass; `sketch` compares sketches (the official
    way)."""
    batch_tokens: int = Field(default=1024, ge=1)
    """Padded tokens in a micro-batch. Part of what is computed: it decides which samples share a batch."""
    loss_chunk: int = Field(default=2048, ge=1)
    """Supervised positions projected onto the vocabulary at a time."""


# --- features and clusters --------------------------------------------------------------------------------------


class GradientFeatures(Section):
    """Sketches of the whole pool: the paper's features. `path` brings sketches of an earlier checkpoint."""

    kind: Literal["gradient"] = "gradient"
    path: str | None = None
    """Folder or URL of an earlier run, or `.npy` file, with sketches of this pool; none computes them now, and then
    every reward is known too. Of an earlier run the predictive allocator also sees the influences, the predictions, and
    the products of its sketches with this target, where these are made alike."""


class HiddenFeatures(Section):
    """Hidden states of the model itself, pooled over the sample: one forward pass a sample."""

    kind: Literal["hidden"] = "hidden"
    layer: Literal["final", "middle"] | int = "final"
    """An index counts blocks from 1; the forward pass stops after that block."""
    pooling: Literal["weighted", "mean"] = "weighted"
    """`weighted` gives later positions linearly more weight."""


class OutputGradientFeatures(Section):
    """Loss gradient at the final hidden state x final hidden state, summed over the label tokens and sketched: the
    gradient of a linear map put between the model and its output embedding. One forward pass a sample."""

    kind: Literal["output_gradient"] = "output_gradient"
    dim: int = Field(default=2048, ge=64)
    """Dimensions of the sketch, a signed hash."""
    seed: Seed = 0
    """Of the sketch."""


class ProxyLora(Lora):
    """The fresh adapter of a proxy: on every linear layer, whatever they are called."""

    target_modules: tuple[str, ...] | Literal["all-linear"] | None = "all-linear"


class ProxyFeatures(Section):
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
    dim: int = Field(default=2048, ge=64)
    """Dimensions of the sketch, a signed hash."""
    seed: Seed = 0
    """Of the sketch."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Padded tokens in a micro-batch."""


class EmbeddingFeatures(Section):
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


class Clusters(Section):
    """Spherical k-means over the features."""

    k: int | Literal["auto"] = "auto"
    """`auto` is min(sqrt(N), budget * N / 5), at least 2: the budget buys five draws a cluster or more."""
    center: bool = True
    """Take the mean direction off the features first. The paper does not; see docs/method.md for what that costs."""
    iterations: int = Field(default=50, ge=1)
    tolerance: float = Field(default=1e-4, ge=0)
    """Stop when the mean cosine to the nearest centroid improves by less than this share."""
    init_sample: int = Field(default=65536, ge=2)
    """k-means++ chooses its start among this many points at most."""
    train_sample: int = Field(default=256, ge=1)
    """Points a cluster that the iterations see; a larger pool then updates the centroids once and is assigned."""

    @model_validator(mode="after")
    def _k_is_positive(self) -> "Clusters":
        if self.k != "auto" and self.k < 1:
            raise ValueError(f"clusters.k is {self.k}: give at least 1, or auto")
        return self


# --- search -----------------------------------------------------------------------------------------------------


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
    lag: Literal[0, 1] = 0
    """Round t is planned from the results of rounds up to t - 1 - lag; 1 keeps every worker busy while a round
    drains."""


class Search(Section):
    """Which samples are scored."""

    allocator: Allocator = UcbBeta()
    budget: Share = 0.2
    """Share of the pool that may be scored, cold start included."""
    cold_start: float = Field(default=0.02, ge=0, le=1)
    """Share of every cluster that is drawn first. The paper's code takes 0.05: half of a budget of 10 %."""
    cold_start_min: int = Field(default=2, ge=1)
    """Draws a cluster gets at least in the cold start (its size permitting)."""
    rounds: Rounds = Rounds()
    compat: Literal["official"] | None = None
    """`official` reproduces the released code: cold start max(floor(share*size), 1) a cluster and population
    deviations."""


# --- what comes out ---------------------------------------------------------------------------------------------


class Selection(Section):
    """The chosen subset: a share of the pool or a count."""

    share: Share | None = None
    count: int | None = Field(default=None, ge=1)
    max_per_source: Share | None = None
    """At most this share of the selection from one source."""

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


class Workers(Section):
    """Where gradients are computed, and what happens when a part of that dies. Changes nothing in the result."""

    count: int | Literal["auto"] = "auto"
    """`auto`: one a GPU where the cluster has any, else one a CPU core, four at most; it follows the cluster as nodes
    come and go."""
    room: Literal["now", "later"] = "now"
    """`now` refuses a count that the cluster cannot hold; `later` starts with what fits and waits for nodes to come, as
    an autoscaler brings them."""
    num_gpus: float | Literal["auto"] = "auto"
    """GPUs a worker holds; fractions share one. `auto`: 1 where the cluster has GPUs, else 0."""
    num_cpus: float = Field(default=1.0, ge=0)
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory a worker reserves in Ray's scheduler."""
    shards: int = Field(default=1, ge=1)
    """Ranks that hold one model together (DeepSpeed ZeRO-3), for models larger than a GPU; they share every
    micro-batch. `num_gpus`, `num_cpus` and `memory_gib` are then each rank's. Part of what settles the last bits."""
    in_flight: int = Field(default=2, ge=1)
    """Micro-batches sent to a worker ahead of its answers."""
    attempts: int = Field(default=3, ge=1)
    """Worker deaths that put a micro-batch under suspicion, and deaths with nothing else in hand that exclude a
    sample."""
    deaths: int = Field(default=5, ge=1)
    """Deaths in a row, without an answer in between, after which a worker is not started again."""
    heartbeat_timeout_s: float = Field(default=60.0, gt=0)
    """A worker process that has not answered for so long is replaced."""
    deadline_factor: float = Field(default=20.0, gt=1)
    """A micro-batch may take this many times what its tokens took so far; then its worker is replaced."""
    deadline_min_s: float = Field(default=120.0, gt=0)
    """Seconds that every micro-batch may take at least."""
    on_driver_death: Literal["continue", "stop"] = "continue"
    """Whether a run on a cluster goes on when the process that started it is gone; `stop` leaves it to be resumed."""
    ready_timeout_s: float = Field(default=900.0, gt=0)
    """Seconds within which the first worker has to be ready."""

    @model_validator(mode="after")
    def _ranks_have_devices_of_their_own(self) -> "Workers":
        if self.shards > 1 and self.num_gpus not in ("auto", 0.0, 1.0):
            raise ValueError(
                f"workers.num_gpus is {self.num_gpus:g} and workers.shards {self.shards}: each rank of a gang works on "
                f"one device, so give 1, 0 or auto"
            )
        return self


class RunConfig(Section):
    """One selection: pool, target, model and how the budget is spent."""

    pool: Rows
    target: Target
    model: Model
    tokens: Tokens = Tokens()
    gradients: Gradients = Gradients()
    features: Features = HiddenFeatures()
    clusters: Clusters = Clusters()
    search: Search = Search()
    selection: Selection = Selection()
    audit: Audit = Audit()
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
