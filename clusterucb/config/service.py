"""What a selection service knows and allows: its catalogue, its folder, its limits.

Invariant: requests name pools, checkpoints, targets and features by a name of the catalogue; every path and every hub
id that a service reads stands in this file and nowhere else.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from clusterucb.config.features import Features, HiddenFeatures
from clusterucb.config.gates import HeldOutRows
from clusterucb.config.gradients import Gradients
from clusterucb.config.inputs import Model, Rows, Target, Tokens
from clusterucb.config.section import Section
from clusterucb.config.workers import Workers

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A name of the catalogue: at most 64 letters, digits, dots, underscores and dashes, so that it is never a path."""

LOOPBACK = ("127.0.0.1", "::1", "localhost")

OpenSection = Literal["tokens", "gates", "features", "clusters", "search", "selection", "audit", "seed"]


class CataloguePool(Rows):
    """A pool that requests may name."""

    description: str = ""


class CatalogueTarget(Target):
    """A target that requests may name, beside those that they bring."""

    description: str = ""


class Checkpoint(Section):
    """A model that requests may name, with how its gradients are taken and what requests get where they say nothing."""

    model: Model
    gradients: Gradients = Gradients()
    """Not a request's to change: sketches are shared between requests because they are made alike."""
    tokens: Tokens = Tokens()
    features: Features = HiddenFeatures()
    description: str = ""


class Catalogue(Section):
    """Everything that requests may name."""

    pools: dict[Name, CataloguePool] = Field(min_length=1)
    checkpoints: dict[Name, Checkpoint] = Field(min_length=1)
    targets: dict[Name, CatalogueTarget] = Field(default={})
    features: dict[Name, Features] = Field(default={})
    """Features with a path or hub id in them: proxies, encoders, earlier runs."""
    held_out: dict[Name, HeldOutRows] = Field(default={})
    """Held-out sets that the gates of a request may name."""


class Limits(Section):
    """What one service takes on."""

    active_runs: int = Field(default=2, ge=1)
    """Runs that compute at the same time."""
    queued_runs: int = Field(default=64, ge=0)
    """Runs that wait; one more is answered with 429."""
    queued_runs_per_token: int = Field(default=16, ge=1)
    body_bytes: int = Field(default=16 * 2**20, ge=1024)
    """Largest body of a request."""
    json_depth: int = Field(default=32, ge=4)
    """Deepest nesting of a body."""
    target_rows: int = Field(default=4096, ge=1)
    """Examples in a target that a request brings."""
    score_rows: int = Field(default=1024, ge=1)
    """Samples in a request for scores."""
    target_bytes: int = Field(default=8 * 2**30, ge=2**20)
    """Room on the disk for all targets that requests brought."""
    targets_per_token: int = Field(default=256, ge=1)
    """Targets that a token may have uploaded at a time."""
    answer_s: float = Field(default=120.0, gt=0)
    """Seconds that a plan or scores may take."""
    body_s: float = Field(default=30.0, gt=0)
    """Seconds within which a body must have arrived."""
    requests_per_minute: int = Field(default=6000, ge=1)
    """Requests of a token; a tenth of them may come at once."""
    failed_authentications_per_minute: int = Field(default=30, ge=1)
    """Requests with a wrong token from one address, before it is made to wait."""
    watchers: int = Field(default=512, ge=1)
    """Open event streams of the whole process."""
    watchers_per_token: int = Field(default=256, ge=1)


class SketchCache(Section):
    """Sketches and influences that one request leaves for the next on the same checkpoint."""

    path: str | None = None
    """Folder; `sketches` inside the service's folder where it is left out."""
    max_gib: float = Field(default=20.0, gt=0)


class Retention(Section):
    """Which runs that are over are deleted; both are checked every ten minutes."""

    days: float | None = Field(default=None, gt=0)
    """Days after its end that a run is kept; none keeps it."""
    runs_per_token: int | None = Field(default=None, ge=1)
    """Runs that are kept of each token's name, the newest; none keeps all."""


class ServiceConfig(Section):
    """A selection service."""

    catalogue: Catalogue
    folder: str
    """Where runs, uploaded targets and the queue are kept; storage that all nodes share where there are several."""
    tokens_file: str | None = None
    """Hashed bearer tokens, written by `clusterucb token`; `tokens.json` inside `folder` where it is left out."""
    host: str = "127.0.0.1"
    """Address to listen on; any but loopback needs a token."""
    port: int = Field(default=8080, ge=0, le=65535)
    names: tuple[str, ...] = ()
    """Host names under which clients reach the service, as in `Host`; loopback's names are always known."""
    may_set: tuple[OpenSection, ...] = (
        "tokens", "gates", "features", "clusters", "search", "selection", "audit", "seed",
    )  # fmt: skip
    """Sections of the run configuration that a request may set."""
    limits: Limits = Limits()
    sketches: SketchCache = SketchCache()
    retention: Retention = Retention()
    workers: Workers = Workers()
    """Workers of every run of this service."""

    @model_validator(mode="after")
    def _others_know_its_name(self) -> "ServiceConfig":
        if self.host not in LOOPBACK and not self.names:
            raise ValueError(
                f"host is {self.host} and names is empty: name the hosts under which clients reach the service, "
                f"such as names: [selection.example.org]"
            )
        return self
