"""Gradients of a smaller model as features: sketched like the run's own, at a fraction of their cost.

The proxy reads the same messages through its own tokenizer, so that its token batches are not the pool's. It is held
whole by every worker beside the run's model, and by every rank of a gang. Invariant: nothing of the run's model,
preconditioner or target enters, so that one proxy gives the same features in every period.
"""

import torch

from clusterucb.checkpoint.model import load_model
from clusterucb.config import Gradients, HashSketch, Model, Plain, ProxyFeatures, Tokens
from clusterucb.gradients.engine import GradientEngine
from clusterucb.types import Hidden, TokenBatch


def proxy_model(features: ProxyFeatures) -> Model:
    """Return the proxy as a checkpoint."""
    names = ("base", "revision", "adapter", "lora", "dtype")
    return Model(**{name: getattr(features, name) for name in names})


def proxy_gradients(features: ProxyFeatures) -> Gradients:
    """Return which gradients are taken of it."""
    sketch = HashSketch(dim=features.dim, seed=features.seed)
    return Gradients(modules=features.modules, precondition=Plain(), sketch=sketch, batch_tokens=features.batch_tokens)


def proxy_tokens(features: ProxyFeatures, tokens: Tokens, positions: int | None) -> Tokens:
    """Return how chats become its tokens: the same messages carry loss, in the proxy's own template."""
    longest = min(features.max_length, positions or features.max_length)
    return Tokens(max_length=longest, truncation=features.truncation, loss_on=tokens.loss_on)


class Proxy:
    """Loads the smaller model; `seed` settles a fresh adapter. Raises ModelError as `load_model` does."""

    def __init__(self, features: ProxyFeatures, device: torch.device, seed: int) -> None:
        loaded = load_model(proxy_model(features), device, seed, features.modules)
        self._engine = GradientEngine(loaded.model, proxy_gradients(features), None, device)

    def features(self, batch: TokenBatch) -> Hidden:
        """Return unit sketches of the gradients of a batch of the proxy's tokens; failures are reported."""
        return self._engine.sketches(batch)

    def forget(self) -> None:
        """Be as if no batch had been seen."""
        self._engine.forget()
