"""Canonical parameter names: the key of sketch seeds, target banks and Adam moments.

A parameter has the same canonical name whether peft, DDP, FSDP or torch.compile wraps the model, so that moments
written by one setting are found by another. `canonical_name` is idempotent.
"""

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_PREFIXES = ("module.", "base_model.model.")


def canonical_name(runtime_name: str) -> str:
    """Return the name of a parameter as the bare model would spell it, without adapter and wrapper names."""
    name = runtime_name
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace(".default.", ".").replace(".base_layer.", ".")
