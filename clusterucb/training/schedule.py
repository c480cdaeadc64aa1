"""The learning rate of every step: it rises over the warm-up, then falls to zero at the end.

Step 0 already moves the weights: the warm-up's first rate is one part of its length, not zero.
"""

import math

from clusterucb.config import Training


def learning_rate(step: int, total: int, training: Training) -> float:
    """Return the rate of optimizer step `step` (from 0) of `total`."""
    rising = math.ceil(training.warmup * total - 1e-9)
    if step < rising:
        return training.learning_rate * (step + 1) / rising
    passed = min(1.0, (step - rising) / max(1, total - rising))
    match training.schedule:
        case "linear":
            return training.learning_rate * (1.0 - passed)
        case "cosine":
            return training.learning_rate * 0.5 * (1.0 + math.cos(math.pi * passed))
        case "constant":
            return training.learning_rate
