"""Which gradients are taken, and how they become influence."""

from typing import Annotated, Literal

from pydantic import Field

from clusterucb.config.section import Section, Seed


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
    scoring: Literal["exact", "sketch", "shortlist"] = "exact"
    """`exact` takes dot products with the target inside the backward pass; `sketch` compares sketches (the official
    way). `shortlist` ranks by the sketches in `store`, takes gradients of the best and selects by these; what the store
    lacks is searched and scored exactly."""
    shortlist: float = Field(default=2.0, ge=1)
    """With `scoring: shortlist`: as many times the selection's size are scored exactly."""
    batch_tokens: int = Field(default=1024, ge=1)
    """Padded tokens in a micro-batch. Part of what is computed: it decides which samples share a batch."""
    loss_chunk: int = Field(default=2048, ge=1)
    """Supervised positions projected onto the vocabulary at a time."""
