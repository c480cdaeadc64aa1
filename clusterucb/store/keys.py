"""What settles a sketch beside the sample: a store keeps sketches of unlike keys apart.

Tokens settings are no part of it, because a sample is named by its tokens and labels (`fingerprints`): rows that two
settings turn into the same tokens share their sketch. Neither is what moves only the last bits and is not of one run:
which samples shared a micro-batch. Devices and libraries move them too, but a pool's at once, and are part of it.
"""

import hashlib
from importlib import metadata
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from clusterucb.checkpoint.identity import Digests, adapter_identity, base_identity, moments_identity
from clusterucb.config import NoSketch, Plain, Preconditioner, RunConfig, Sketch
from clusterucb.data.tokens import TokenStore
from clusterucb.store.shards import FINGERPRINT, Fingerprints
from clusterucb.types import IntArray

_SCHEME = 1
"""Grows when the same settings come to give other sketches."""

Device = Literal["cpu", "cuda"]


class SketchKey(BaseModel):
    """Everything that settles the sketch of a sample."""

    model_config = ConfigDict(frozen=True)

    scheme: int = _SCHEME
    base: str
    adapter: str
    moments: str
    dtype: str
    attention: str
    modules: Literal["lora"] | tuple[str, ...]
    precondition: Preconditioner
    sketch: Sketch
    device: Device
    libraries: tuple[str, ...]

    @property
    def digest(self) -> str:
        """A short name for all of it."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=8).hexdigest()


class Described(BaseModel):
    """A key with what people call its parts."""

    model_config = ConfigDict(frozen=True)

    key: SketchKey
    base: str
    adapter: str | None
    moments: str | None

    @property
    def dim(self) -> int:
        """Numbers in a sketch."""
        assert not isinstance(self.key.sketch, NoSketch), "a run without sketches has no key"
        return self.key.sketch.dim


def key_of(config: RunConfig, device: Device, digests: Digests) -> Described:
    """Return the key of a run's sketches on a kind of device. Raises ModelError where the checkpoint is not here."""
    model, gradients = config.model, config.gradients
    adam = gradients.precondition.kind == "adam" and model.moments is not None
    key = SketchKey(
        base=base_identity(model, digests),
        adapter=adapter_identity(model, config.seed, fresh=gradients.modules == "lora"),
        moments=moments_identity(model, digests) if adam else "",
        dtype=model.dtype,
        attention=model.attention,
        modules=gradients.modules,
        precondition=gradients.precondition if adam else Plain(),
        sketch=gradients.sketch,
        device=device,
        libraries=tuple(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "peft")),
    )
    return Described(key=key, base=model.base, adapter=model.adapter, moments=model.moments)


def fingerprints(pool: TokenStore, samples: IntArray) -> Fingerprints:
    """Name samples by their tokens and labels."""
    names = bytearray()
    for start in range(0, len(samples), 1024):
        batch = pool.batch(samples[start : start + 1024])
        for i in range(len(batch)):
            tokens, labels = batch.row(i)
            digest = hashlib.blake2b(tokens.astype("<i4", copy=False).tobytes(), digest_size=16)
            digest.update(np.packbits(labels).tobytes())
            names += digest.digest()
    return np.frombuffer(bytes(names), FINGERPRINT)
