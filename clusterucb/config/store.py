"""Where sketches are kept for later runs."""

from pydantic import Field

from clusterucb.config.section import Section


class Store(Section):
    """Sketches that outlive the run: a later one on the same checkpoint takes those that are there and computes the
    others. What a run takes is settled when it begins; a resumed run takes the same."""

    path: str | None = None
    """Folder, on a disk of the coordinator's machine or one that all share; none keeps nothing. `scoring: sketch` and
    `shortlist` take sketches from it; `exact` needs every gradient and only adds to it."""
    max_gib: float = Field(default=20.0, gt=0)
    """Above it the sketches that were of no use for the longest time are removed, but none that a run has open."""
