"""The dynamic loop: how selection and training take turns."""

from typing import Literal

from pydantic import Field

from clusterucb.config.section import Section


class WarmArms(Section):
    """Let every search but the first begin with what the last period found; see `search.warm_start`."""

    discount: float = Field(default=0.5, gt=0, le=1)
    """Draws of now that one of the last period counts for at most."""
    probe: float = Field(default=0.005, ge=0, le=1)
    """Share of every cluster that is drawn first."""
    probe_min: int = Field(default=1, ge=1)
    """Draws a cluster gets at least in this probe."""


class Loop(Section):
    """What `run` does: a warm-up, then periods of selection and training. The defaults are the paper's schedule, with
    searches that begin warm."""

    mode: Literal["dynamic", "static"] = "dynamic"
    """`dynamic` selects anew at the checkpoint that each period leaves. `static`, as LESS does, selects once: influence
    summed over the warm-up's checkpoints, weighted by their learning rates, and then one training on the selection."""
    periods: int = Field(default=4, ge=1)
    """Selections, each followed by training on it. Counts for `dynamic`."""
    first: Literal["exhaustive", "search"] = "exhaustive"
    """How period 1 selects: from gradients of the whole pool at the warm-up's checkpoint, by which later periods are
    clustered; or by a search over the configured features, as later periods do."""
    epochs: int = Field(default=1, ge=1)
    """Passes over a selection."""
    keep_warmup: bool = False
    """Train on from the warm-up's weights. The paper begins again from the model: its warm-up only serves the first
    selection."""
    clusters: Literal["keep", "remake"] = "keep"
    """Whether later periods keep the first one's clusters, or make them anew from what is known by then."""
    warm_start: WarmArms | None = WarmArms()
    """For the allocators ucb_beta and ucb1; others begin anew, or know the last period in their own way (predictive).
    null: every search begins anew, as in the paper."""
    merge: bool = False
    """Leave a model with the adapter merged in, beside the adapter."""
