"""What a run looks like: the one model behind `report.html`, the service's page and whatever else shows a run.

Invariants: its size does not grow with the pool (distributions are binned, tables are the first n and the rest summed
up); it is true of a run in any state, where a part that does not exist yet is null; everything in it may be shown to
whoever may see the run: samples and their texts yes, paths by their last part only.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from clusterucb.run.costs import CostLedger
from clusterucb.run.summary import CapOutcome, Recall, Share, TargetOutcome, WorkerUse
from clusterucb.run.summary import Lengths as AnswerLengths

FORMAT = 2
"""Of the model; a view that was kept in another format is made anew."""

State = Literal["prepared", "running", "finished", "failed", "cancelled"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class StageView(_Part):
    """How far one stage is. `seconds` are worker seconds; `began` and `ended` seconds since the epoch."""

    stage: str
    done: int
    total: int
    failed: int
    tokens: int
    seconds: float
    best: float | None
    began: float
    ended: float | None


class Progress(_Part):
    """What the events say."""

    state: State
    error: str | None
    began: float | None
    """Seconds since the epoch; of the first start."""
    latest: float | None
    """Of the last event."""
    resumed: int
    """How often the run was taken up again."""
    workers: int
    lost: int
    """Deaths of workers, each given a successor or given up."""
    stages: tuple[StageView, ...]
    notes: tuple[str, ...]
    more_notes: int
    waiting: str | None
    """What nothing can go on without, if that is so."""
    read_to: int
    """Bytes of `events.jsonl` that this is made of: the place to go on from."""


class Setup(_Part):
    """What was asked for. Paths are shortened to their last part."""

    model: str
    adapter: str | None
    moments: str | None
    pool: str
    target: str
    features: str
    allocator: str
    budget: float
    seed: int
    settings: dict[str, Any]
    """The resolved configuration."""
    versions: dict[str, str]
    git_sha: str | None


class Histogram(_Part):
    """Counts in bins: bin i is from `edges[i]` up to `edges[i + 1]`, the last one including its end."""

    edges: tuple[float, ...]
    pool: tuple[int, ...] | None
    drawn: tuple[int, ...]
    selected: tuple[int, ...]
    audited: tuple[int, ...] | None = None


class Influence(_Part):
    """The distribution of the influence."""

    histogram: Histogram
    threshold: float | None
    """The smallest influence selected; null where the selection goes by another score: that of several targets, or
    influence as corrected."""
    drawn_median: float
    selected_median: float | None
    undrawn: int
    """Usable samples never drawn; the audited ones are a uniform sample of these."""


class Lengths(_Part):
    """The distribution of the lengths, in tokens as the model reads them, and medians."""

    histogram: Histogram
    pool_median: float
    drawn_median: float
    selected_median: float | None
    answers: AnswerLengths
    """Of the tokens with loss, and whether influence goes by them."""


class Round(_Part):
    """Rounds `first` to `last`, told as one. Round 0 is the cold start."""

    first: int
    last: int
    draws: int
    mean: float
    best: float
    selected: int
    """Of these draws, how many are selected."""


class Arm(_Part):
    """One cluster as the bandit sees it. `draws` are scored samples; `failed` could not be."""

    cluster: int
    size: int
    draws: int
    failed: int
    selected: int
    mean: float | None
    std: float | None
    """Sample deviation of the rewards; null below two."""
    best: float | None
    draws_by_round: tuple[int, ...]
    """One number for each of `Search.rounds`."""
    sources: tuple[str, ...]
    """The most frequent ones, at most two."""
    source_share: float
    """Share of the cluster that comes from these."""


class SearchView(_Part):
    """Where the budget went. `limit` is what it buys."""

    limit: int
    drawn: int
    rounds: tuple[Round, ...]
    arms: tuple[Arm, ...]
    """Most selected first, then most drawn; at most as many as a person looks at."""
    num_arms: int
    other_arms_draws_by_round: tuple[int, ...]
    other_arms: Share | None
    """The arms left out, together."""


class Composition(_Part):
    """Samples by source: the most selected first, the others together in `rest`."""

    sources: tuple[Share, ...]
    num_sources: int
    rest: Share | None


class Message(_Part):
    """One turn of a chat, its text cut where it is long."""

    role: str
    content: str


class Sample(_Part):
    """A scored sample. `rank` is its place in the selection, null where it is not selected."""

    id: str
    source: str
    influence: float
    rank: int | None
    subtask: str
    stage: str
    cluster: int | None
    round: int | None
    loss: float
    tokens: int
    label_tokens: int
    messages: tuple[Message, ...] | None
    """Null where the text was not at hand."""
    cut: int
    """Characters left out of the messages."""


class Samples(_Part):
    """Samples to look at: the best, and others evenly down the ranks."""

    selected: tuple[Sample, ...]
    num_selected: int
    rejected: tuple[Sample, ...]
    num_rejected: int


class PoolFacts(_Part):
    """The pool, and what of it could not be used."""

    samples: int
    usable: int
    truncated: int
    tokens: int
    excluded: dict[str, int]
    target_examples: int
    subtasks: tuple[str, ...]


class RunView(_Part):
    """All of it. `provisional`: the selection is that of what was scored so far, and will change."""

    format: int = FORMAT
    run: str
    progress: Progress
    setup: Setup
    pool: PoolFacts | None = None
    wanted: int | None = None
    """Samples that the selection asks for."""
    scored: int = 0
    selected: int = 0
    provisional: bool = True
    influence: Influence | None = None
    search: SearchView | None = None
    composition: Composition | None = None
    lengths: Lengths | None = None
    cost: CostLedger | None = None
    audit: Recall | None = None
    targets: tuple[TargetOutcome, ...] = ()
    """Of several targets, what was selected for each alone, and its recall."""
    caps: tuple[CapOutcome, ...] = ()
    """What the caps left out, once the run is over."""
    workers: tuple[WorkerUse, ...] = ()
    samples: Samples | None = None
