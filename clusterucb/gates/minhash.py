"""Keys that near-duplicates share: MinHash signatures, cut into bands (locality-sensitive hashing).

Two sets of Jaccard similarity s agree in one number of a signature with probability s, in a band of r numbers with s^r,
and in at least one of b bands with 1 - (1 - s^r)^b. Keys only say which pairs are worth comparing; similarity itself
is computed from the sets. Signatures are rensa's; invariant: sets, seed and rensa's algorithm version settle the keys.
"""

# rensa is not typed.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from array import array
from dataclasses import dataclass

import numpy as np
from rensa import RMinHash

from clusterucb.gates.words import Hashes, mixed
from clusterucb.types import IntArray

ALGORITHM = f"rensa RMinHash {RMinHash.ALGORITHM_VERSION}"
_NUMBERS = 128
"""Numbers in a signature at most."""
_FOUND = 0.99
"""Probability with which a pair at the threshold becomes a candidate, at least."""


@dataclass(frozen=True, slots=True)
class Bands:
    """How a signature is cut."""

    count: int
    rows: int

    @classmethod
    def at(cls, threshold: float) -> "Bands":
        """Return the longest bands, which let the fewest other pairs through, that find a pair at the threshold."""
        for rows in range(_NUMBERS, 1, -1):
            if 1 - (1 - threshold**rows) ** (_NUMBERS // rows) >= _FOUND:
                return cls(_NUMBERS // rows, rows)
        return cls(_NUMBERS, 1)

    def keys_BK(self, hashes_G: Hashes, offsets: IntArray, seed: int) -> Hashes:
        """Return B x `count` keys of B sets that lie end to end."""
        width = self.count * self.rows
        digests = RMinHash.digest_matrix_from_flat_token_hashes(hashes_G, offsets.astype(np.uint64), width, seed)
        flat = b"".join(array("I", row).tobytes() for row in digests.to_rows())
        signatures_BKR = np.frombuffer(flat, np.uint32).reshape(-1, self.count, self.rows).astype(np.uint64)
        keys_BK = np.zeros(signatures_BKR.shape[:2], np.uint64)
        for row in range(self.rows):
            keys_BK = mixed(keys_BK + signatures_BKR[:, :, row])
        return keys_BK
