"""How a selection is chosen: what it is ranked by, which of the best it may not take, and whether they must differ."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from clusterucb.config.section import Section, Share


class Cap(Section):
    """At most so many selected samples of one group: a share of the selection or a count."""

    share: Share | None = None
    count: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _share_or_count(self) -> "Cap":
        if (self.share is None) == (self.count is None):
            raise ValueError("a cap has either a share of the selection or a count: give one of them")
        return self

    def limit(self, count: int) -> int:
        """Return how many of `count` selected samples one group may have; at least one."""
        if self.count is not None:
            return self.count
        assert self.share is not None, "a cap has one of both"
        return max(1, int(self.share * count + 1e-9))


class Caps(Section):
    """Groups of which the selection takes so many at most; the best of each. All of them hold together, in the joint
    selection and in every target's own."""

    source: Cap | None = None
    """Of the rows from one source (`pool.source_field`)."""
    cluster: Cap | None = None
    """Of one cluster: not where nothing is clustered (`uniform`, `exhaustive`)."""
    near_duplicate: Cap | None = None
    """Of one group of copies and near-copies, as `gates.near` finds them. With `count: 1` the best of each group is
    taken, where `gates.near.policy: exclude` keeps the first in file order."""

    @property
    def active(self) -> dict[str, Cap]:
        """Return the caps that are set, by name."""
        given = {"source": self.source, "cluster": self.cluster, "near_duplicate": self.near_duplicate}
        return {name: cap for name, cap in given.items() if cap is not None}


class AsTheyAre(Section):
    """Rank by influence."""

    kind: Literal["none"] = "none"


class LengthTrend(Section):
    """Rank by influence less its trend: the line fitted to influence over the logarithm of answer tokens. The search
    sees it corrected too."""

    kind: Literal["length_trend"] = "length_trend"


class LengthQuantile(Section):
    """Rank within classes of answer length, so that every length has its part in the selection: the best of each class,
    in proportion to the class's part of the pool."""

    kind: Literal["length_quantile"] = "length_quantile"
    buckets: int = Field(default=10, ge=2, le=1000)
    """Classes; each has the same number of the pool's samples, as far as equal lengths allow."""


Normalise = Annotated[AsTheyAre | LengthTrend | LengthQuantile, Field(discriminator="kind")]


class NoDiversity(Section):
    """Take the best, however alike."""

    kind: Literal["none"] = "none"


class _Diverse(Section):
    quality: float = Field(default=0.5, ge=0, le=1)
    """How much rank by influence counts against diversity: 1 takes the best, 0 looks at diversity alone."""
    shortlist: float = Field(default=2.0, ge=1)
    """As many times the selection's size, the best of what was scored, are what it chooses from."""
    dim: int = Field(default=512, ge=16, le=65536)
    """Dimensions that sketches are folded to; cosines err by about 1/sqrt(dim). Memory is 4 bytes of them a sample of
    the shortlist."""
    center: bool = True
    """Take the mean sketch of the shortlist off first: what all Adam directions share tells none of them apart."""


class FacilityLocation(_Diverse):
    """Choose greedily such that every sample of the shortlist has a similar one in the selection."""

    kind: Literal["facility_location"] = "facility_location"
    represented: int = Field(default=8192, ge=1)
    """Of a longer shortlist so many, evenly down the ranks, stand for all of it."""


class LogDeterminant(_Diverse):
    """Choose greedily such that the sketches of the selection span as much as they can: the mode of a determinantal
    point process."""

    kind: Literal["log_determinant"] = "log_determinant"
    ridge: float = Field(default=0.1, gt=0, le=10)
    """Added to the kernel's diagonal: a copy is then worth little instead of minus infinity."""


Diversity = Annotated[NoDiversity | FacilityLocation | LogDeterminant, Field(discriminator="kind")]
