"""One independent random stream a purpose, all from one seed: what a run and its simulation have in common."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Streams:
    """The generators of a run."""

    clusters: np.random.Generator
    search: np.random.Generator
    audit: np.random.Generator

    @classmethod
    def of(cls, seed: int) -> "Streams":
        """Derive the streams from the seed of the run."""
        return cls(*(np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)))
