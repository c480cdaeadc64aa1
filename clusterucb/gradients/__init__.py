"""Per-sample gradients: formed in the backward pass, turned by Adam, compared with the target, sketched, dropped."""
