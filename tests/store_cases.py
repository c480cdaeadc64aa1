"""Small rows and keys for the store."""

import numpy as np

from clusterucb.config import HashSketch, Plain
from clusterucb.store.keys import Described, SketchKey
from clusterucb.store.shards import FINGERPRINT, Rows

DIM = 64


def described(base: str = "base") -> Described:
    key = SketchKey(
        base=base,
        adapter="",
        moments="",
        dtype="auto",
        attention="sdpa",
        modules="lora",
        precondition=Plain(),
        sketch=HashSketch(dim=DIM),
        device="cpu",
        libraries=(),
    )
    return Described(key=key, base=base, adapter=None, moments=None)


def rows_of(names: list[int], version: int = 0) -> Rows:
    """Rows whose content follows from their names and a version."""
    generators = [np.random.default_rng((name, version)) for name in names]
    return Rows(
        fingerprint_R=names_of(names),
        sketch_RD=np.stack([rng.normal(size=DIM) for rng in generators]).astype(np.float16),
        squared_norm_R=np.asarray([rng.random() for rng in generators], np.float32),
        loss_R=np.asarray([rng.random() for rng in generators], np.float32),
        num_tokens_R=np.asarray(names, np.int32),
    )


def names_of(names: list[int]) -> np.ndarray:
    return np.frombuffer(b"".join(np.random.default_rng(name).bytes(16) for name in names), FINGERPRINT)


def assert_same(found: Rows, expected: Rows) -> None:
    for name in Rows.__slots__:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
